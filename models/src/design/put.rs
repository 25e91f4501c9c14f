//! A row, filled from its beginning.

pub(super) struct Put<'a> {
    pub out: &'a mut [f32],
    pub at: usize,
}

impl Put<'_> {
    pub fn push(&mut self, value: f32) {
        if let Some(place) = self.out.get_mut(self.at) {
            *place = value;
        }
        self.at += 1;
    }

    pub fn flag(&mut self, is: bool) {
        self.push(if is { 1.0 } else { 0.0 });
    }

    pub fn skip(&mut self, count: usize) {
        (0..count).for_each(|_| self.push(f32::NAN));
    }

    pub fn harmonics(&mut self, share: f32, count: usize) {
        for harmonic in 1..=count {
            let (sin, cos) = (std::f32::consts::TAU * harmonic as f32 * share).sin_cos();
            self.push(sin);
            self.push(cos);
        }
    }
}
