//! How much of a container's log is kept, as the kubelet's flags say it.
//!
//! Source: upstream `pkg/kubelet/logs/container_log_manager.go`,
//! `NewContainerLogManager`, `parseMaxSize`.

use api::Quantity;
use runtime::LogLimits;

/// Flags that cannot be honoured.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLogLimits {
    /// `--container-log-max-size` is no quantity of whole bytes.
    #[error("failed to parse container log max size {0:?}: a quantity of bytes is needed, for example 10Mi")]
    Size(String),
    /// `--container-log-max-files` leaves no file to put aside.
    #[error("invalid MaxFiles {0}, must be > 1")]
    Files(i32),
}

/// The limits of `--container-log-max-size` and `--container-log-max-files`.
/// A negative size turns rotation off.
///
/// # Errors
/// When one of them cannot be honoured.
pub fn limits(size: &str, files: i32) -> Result<LogLimits, InvalidLogLimits> {
    let files_max = u32::try_from(files).ok().filter(|files| *files > 1);
    let files_max = files_max.ok_or(InvalidLogLimits::Files(files))?;
    let quantity: Quantity = size.parse().map_err(|_| InvalidLogLimits::Size(size.to_owned()))?;
    let bytes = quantity.bytes();
    let file_bytes_max = if bytes < 0 {
        u64::MAX
    } else {
        u64::try_from(bytes).map_err(|_| InvalidLogLimits::Size(size.to_owned()))?
    };
    Ok(LogLimits { file_bytes_max, files_max })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_as_upstream_reads_them() {
        let of = |file_bytes_max, files_max| Ok(LogLimits { file_bytes_max, files_max });
        assert_eq!(limits("10Mi", 5), Ok(LogLimits::default()));
        assert_eq!(limits("1k", 2), of(1000, 2));
        assert_eq!(limits("-1", 2), of(u64::MAX, 2), "no rotation");
        assert_eq!(limits("10Mi", 1).unwrap_err().to_string(), "invalid MaxFiles 1, must be > 1");
        assert_eq!(limits("10Mi", -3), Err(InvalidLogLimits::Files(-3)));
        assert_eq!(limits("much", 5), Err(InvalidLogLimits::Size("much".to_owned())));
    }
}
