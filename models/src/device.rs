//! Where tensors are computed: chosen at run time, by what the configuration says and what the machine has.

use serde::{Deserialize, Serialize};

/// A device that a network can be placed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// The processors of this machine.
    #[default]
    Cpu,
    /// The NVIDIA GPU with this number.
    Cuda(usize),
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Why a device cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The text names no device.
    #[error("`{0}` is not a device; use auto, cpu, or cuda:N with N from 0")]
    Unknown(String),
    /// This binary has no GPU code.
    #[error(
        "device `cuda:{0}` was asked for, but this binary was built without CUDA; build with `--features cuda`, or use device = \"auto\" or \"cpu\""
    )]
    NotBuilt(usize),
    /// The GPU does not compute.
    #[error("device `cuda:{index}` cannot be used: {reason}; check `nvidia-smi`, or use device = \"auto\" or \"cpu\"")]
    Unusable {
        /// Number of the GPU.
        index: usize,
        /// What went wrong.
        reason: String,
    },
}

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// The first GPU if there is a usable one, else the processors.
    Auto,
    /// This one or an error.
    Exactly(Device),
}

impl std::str::FromStr for Request {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Request, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        match text.trim() {
            "auto" => Ok(Request::Auto),
            "cpu" => Ok(Request::Exactly(Device::Cpu)),
            other => {
                let index = other.strip_prefix("cuda:").ok_or_else(unknown)?;
                Ok(Request::Exactly(Device::Cuda(index.parse().map_err(|_| unknown())?)))
            }
        }
    }
}

/// The device for `auto`, `cpu` or `cuda:N`.
///
/// Looks for a GPU with [`probe`] where one may be used: call it in the process that will use the device, never in one
/// that must survive a fault of the driver.
pub fn resolve(text: &str) -> Result<Device, DeviceError> {
    match text.parse()? {
        Request::Auto => Ok(probe(0).map_or(Device::Cpu, |()| Device::Cuda(0))),
        Request::Exactly(Device::Cpu) => Ok(Device::Cpu),
        Request::Exactly(Device::Cuda(index)) => probe(index).map(|()| Device::Cuda(index)),
    }
}

/// Whether GPU `index` computes: multiplies two small matrices on it.
///
/// The driver may crash, hang or end the process: probe in a child process with a time limit.
#[cfg(not(feature = "cuda"))]
pub fn probe(index: usize) -> Result<(), DeviceError> {
    Err(DeviceError::NotBuilt(index))
}

/// Whether GPU `index` computes: multiplies two small matrices on it.
///
/// The driver may crash, hang or end the process: probe in a child process with a time limit.
#[cfg(feature = "cuda")]
pub fn probe(index: usize) -> Result<(), DeviceError> {
    use burn::backend::Cuda;
    use burn::backend::cuda::CudaDevice;
    use burn::tensor::Tensor;

    let unusable = |reason: String| DeviceError::Unusable { index, reason };
    // Without a driver or without CUDA's headers the library panics.
    let product = std::panic::catch_unwind(|| {
        let device = CudaDevice::new(index);
        let matrix = Tensor::<Cuda, 2>::from_data([[1.0, 2.0], [3.0, 4.0]], &device);
        matrix.clone().matmul(matrix).into_data().to_vec::<f32>()
    });
    match product {
        Ok(Ok(values)) if values == [7.0, 10.0, 15.0, 22.0] => Ok(()),
        Ok(Ok(values)) => Err(unusable(format!("a 2 × 2 product came out as {values:?}"))),
        Ok(Err(error)) => Err(unusable(format!("the result could not be read: {error:?}"))),
        Err(_) => Err(unusable("no driver, no GPU, or no CUDA toolkit for run-time compilation was found".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_read_and_written() {
        for (text, request) in [
            ("auto", Request::Auto),
            ("cpu", Request::Exactly(Device::Cpu)),
            ("cuda:0", Request::Exactly(Device::Cuda(0))),
            ("cuda:3", Request::Exactly(Device::Cuda(3))),
        ] {
            assert_eq!(text.parse(), Ok(request));
        }
        for text in ["", "gpu", "cuda", "cuda:", "cuda:x", "cuda:-1"] {
            assert_eq!(text.parse::<Request>(), Err(DeviceError::Unknown(text.into())));
        }
        assert_eq!(Device::Cuda(1).to_string(), "cuda:1");
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn without_cuda_in_the_binary_auto_is_the_cpu_and_a_gpu_is_an_error() {
        assert_eq!(resolve("auto"), Ok(Device::Cpu));
        let error = resolve("cuda:1").unwrap_err();
        assert_eq!(error, DeviceError::NotBuilt(1));
        assert!(error.to_string().contains("--features cuda"));
    }
}
