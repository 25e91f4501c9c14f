//! The artifact: one line of magic and version, one line of JSON, then the weights as little-endian `f32`.

use super::{Header, NAME, QuantileMlp};
use crate::artifact::{self, ArtifactError};
use crate::device::{Device, DeviceError};

/// Raised whenever features, layers or their order change: an artifact means nothing to any other version.
const VERSION: u32 = 1;

impl QuantileMlp {
    /// The artifact, see the module.
    pub fn to_bytes(&self) -> Vec<u8> {
        // The header is plain data of our own; its serialisation cannot fail.
        let header = serde_json::to_string(&self.header).unwrap_or_default();
        let mut bytes = artifact::begun(NAME, VERSION);
        bytes.extend_from_slice(header.as_bytes());
        bytes.push(b'\n');
        for weight in self.weights.iter().flatten() {
            bytes.extend_from_slice(&weight.to_le_bytes());
        }
        bytes
    }

    /// Reads an artifact and puts it on `device`, whatever it was trained on.
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<QuantileMlp, ArtifactError> {
        let damaged = |what: &str| ArtifactError::Damaged(what.to_owned());
        let rest = artifact::rest_of(bytes, NAME, VERSION)?;
        let (json, rest) = line(rest).ok_or_else(|| damaged("it has no header"))?;
        let header: Header = serde_json::from_str(json).map_err(|e| damaged(&format!("its header is wrong: {e}")))?;
        let layout = header.layout();
        if (header.shape.window_features, header.shape.step_features)
            != (layout.window_features(), layout.step_features())
        {
            return Err(damaged("its header does not fit its features"));
        }
        let (words, cut) = rest.as_chunks::<4>();
        let weights: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
        let size = header.shape.parameters();
        if !cut.is_empty() || weights.is_empty() || !weights.len().is_multiple_of(size) {
            return Err(damaged(&format!("{} bytes are not whole networks of {size} weights", rest.len())));
        }
        if weights.iter().any(|w| !w.is_finite()) {
            return Err(damaged("a weight is not finite"));
        }
        let members = weights.chunks(size).map(<[f32]>::to_vec).collect();
        #[cfg(not(feature = "cuda"))]
        if let Device::Cuda(index) = device {
            return Err(DeviceError::NotBuilt(*index).into());
        }
        QuantileMlp::place(header, members, device).ok_or_else(|| damaged("its weights do not fit its header"))
    }
}

/// The text up to a line feed, and what comes after it.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|b| *b == b'\n')?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}
