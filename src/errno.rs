//! The one table from our errors to the numbers that the kernel hands to a reader.

use fuser::Errno;

use crate::error::Error;

/// The number for an error. The reason itself goes to the log: a number cannot hold it.
///
/// | error                                        | number  |
/// |----------------------------------------------|---------|
/// | `Corrupt`, `Unsupported`, `MissingLayer`     | `EIO`   |
/// | `Io` with `EINTR`, `EACCES`, `EPERM`, `ENOMEM` | the same: a reader can act on these |
/// | `Io` with anything else                      | `EIO`   |
/// | `Usage`                                      | `EINVAL` |
///
/// The other numbers of the operating system are about *our* files and descriptors; a reader
/// would take them for a statement about the file in the view (`ENOENT`, `EMFILE`, `ENXIO`).
pub fn errno(error: &Error) -> Errno {
    match error {
        Error::Corrupt { .. } | Error::Unsupported { .. } | Error::MissingLayer { .. } => {
            Errno::EIO
        }
        Error::Io { source, .. } => match source.raw_os_error() {
            Some(libc::EINTR) => Errno::EINTR,
            Some(libc::EACCES) => Errno::EACCES,
            Some(libc::EPERM) => Errno::EPERM,
            Some(libc::ENOMEM) => Errno::ENOMEM,
            _ => Errno::EIO,
        },
        Error::Usage(_) => Errno::EINVAL,
        Error::About { error, .. } => errno(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn io(number: i32) -> Error {
        Error::io_at("disk.qcow2", 65_536, io::Error::from_raw_os_error(number))
    }

    #[test]
    fn what_is_wrong_with_a_backup_is_an_input_output_error() {
        let (file, what) = (|| "disk.qcow2".into(), || "L2 table".to_owned());
        let corrupt = Error::Corrupt { file: file(), offset: 0, what: what() };
        let unsupported = Error::Unsupported { file: file(), offset: 0, what: what() };
        let missing = Error::MissingLayer { file: file(), what: what() };
        for error in [corrupt, unsupported, missing] {
            assert_eq!(errno(&error), Errno::EIO, "{error}");
        }
    }

    #[test]
    fn only_numbers_that_a_reader_can_act_on_pass_through() {
        for number in [libc::EINTR, libc::EACCES, libc::EPERM, libc::ENOMEM] {
            assert_eq!(errno(&io(number)).code(), number);
        }
        for number in [libc::ENOENT, libc::ESTALE, libc::EMFILE, libc::ENXIO, libc::EIO] {
            assert_eq!(errno(&io(number)), Errno::EIO);
        }
        let unnumbered = Error::io("disk.qcow2", io::Error::other("changed"));
        assert_eq!(errno(&unnumbered), Errno::EIO);
    }

    #[test]
    fn a_request_that_makes_no_sense_is_an_invalid_argument() {
        assert_eq!(errno(&Error::Usage("no".to_owned())), Errno::EINVAL);
    }
}
