//! Between the words of the core and those of FUSE. The one place where a situation becomes an errno.

use std::time::{Duration, SystemTime};

use fuser::{Errno, FileHandle, INodeNo, Request};

use crate::core::access::{Caller, Groups};
use crate::core::error::FsError;
use crate::core::name::{HandleId, Ino};
use crate::core::time::UnixTime;

impl From<FsError> for Errno {
    fn from(situation: FsError) -> Errno {
        match situation {
            FsError::NoSuchName | FsError::NoSuchSecret | FsError::Vanished => Errno::ENOENT,
            FsError::NotADirectory => Errno::ENOTDIR,
            FsError::IsADirectory => Errno::EISDIR,
            FsError::CallerDenied | FsError::Locked | FsError::VaultDenied => Errno::EACCES,
            FsError::TimedOut => Errno::ETIMEDOUT,
            FsError::VaultDown => Errno::EHOSTDOWN,
            // When the mount stops, all generations have ended.
            FsError::GenerationEnded | FsError::Stopping => Errno::ESTALE,
            FsError::Unusable | FsError::OutOfMemory => Errno::EIO,
            FsError::ReadOnly => Errno::EROFS,
            FsError::NoSuchAttribute => Errno::ENODATA,
            FsError::BadHandle => Errno::EBADF,
        }
    }
}

impl From<Ino> for INodeNo {
    fn from(ino: Ino) -> INodeNo {
        INodeNo(ino.0)
    }
}

impl From<INodeNo> for Ino {
    fn from(ino: INodeNo) -> Ino {
        Ino(ino.0)
    }
}

impl From<HandleId> for FileHandle {
    fn from(handle: HandleId) -> FileHandle {
        FileHandle(handle.0)
    }
}

impl From<FileHandle> for HandleId {
    fn from(handle: FileHandle) -> HandleId {
        HandleId(handle.0)
    }
}

impl From<&Request> for Caller {
    fn from(request: &Request) -> Caller {
        Caller { uid: request.uid(), gid: request.gid(), groups: Groups::Unread, thread: request.pid() }
    }
}

impl From<UnixTime> for SystemTime {
    fn from(time: UnixTime) -> SystemTime {
        let seconds = Duration::from_secs(time.seconds.unsigned_abs());
        let whole = if time.seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(seconds)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(seconds)
        };
        whole
            .and_then(|whole| whole.checked_add(Duration::from_nanos(time.nanoseconds.into())))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_situation_has_its_errno() {
        for (situation, errno) in [
            (FsError::NoSuchName, Errno::ENOENT),
            (FsError::NoSuchSecret, Errno::ENOENT),
            (FsError::Vanished, Errno::ENOENT),
            (FsError::NotADirectory, Errno::ENOTDIR),
            (FsError::IsADirectory, Errno::EISDIR),
            (FsError::CallerDenied, Errno::EACCES),
            (FsError::Locked, Errno::EACCES),
            (FsError::VaultDenied, Errno::EACCES),
            (FsError::TimedOut, Errno::ETIMEDOUT),
            (FsError::VaultDown, Errno::EHOSTDOWN),
            (FsError::GenerationEnded, Errno::ESTALE),
            (FsError::Unusable, Errno::EIO),
            (FsError::OutOfMemory, Errno::EIO),
            (FsError::ReadOnly, Errno::EROFS),
            (FsError::NoSuchAttribute, Errno::ENODATA),
            (FsError::BadHandle, Errno::EBADF),
            (FsError::Stopping, Errno::ESTALE),
        ] {
            assert_eq!(Errno::from(situation), errno, "{situation:?}");
        }
    }

    #[test]
    fn ids_survive_the_way_through_the_kernel() {
        for number in [1, 2, u64::MAX] {
            assert_eq!(Ino::from(INodeNo::from(Ino(number))), Ino(number));
            assert_eq!(HandleId::from(FileHandle::from(HandleId(number))), HandleId(number));
        }
        assert_eq!(INodeNo::from(Ino::ROOT), INodeNo::ROOT);
    }

    #[test]
    fn a_time_before_1970_counts_back() {
        let time = |seconds, nanoseconds| SystemTime::from(UnixTime { seconds, nanoseconds });
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(time(2, 5), epoch + Duration::new(2, 5));
        assert_eq!(time(-2, 500_000_000), epoch - Duration::from_millis(1500));
        assert!(time(i64::MIN, 0) < time(i64::MAX, 999_999_999), "no overflow");
    }
}
