//! Between the words of the core and those of FUSE. The one place where a situation becomes an errno.

use fuser::{Errno, FileHandle, INodeNo, Request};

use crate::core::access::{Caller, Groups, ProcessOf};
use crate::core::error::FsError;
use crate::core::name::{HandleId, Ino};

impl From<FsError> for Errno {
    fn from(situation: FsError) -> Errno {
        match situation {
            FsError::NoSuchName | FsError::NoSuchSecret | FsError::Vanished => Errno::ENOENT,
            FsError::NotADirectory => Errno::ENOTDIR,
            FsError::IsADirectory => Errno::EISDIR,
            FsError::CallerDenied | FsError::Locked | FsError::VaultDenied => Errno::EACCES,
            FsError::TimedOut => Errno::ETIMEDOUT,
            FsError::VaultDown => Errno::EHOSTDOWN,
            // When the mount stops, all generations have ended. So have those of a server whose state is lost, and
            // handles that were open on them are all that the kernel can ask for and nobody knows.
            FsError::GenerationEnded | FsError::Stopping | FsError::BadHandle => Errno::ESTALE,
            // The kernel begins the walk anew then (path-lookup.rst), and asks for the directory first.
            FsError::NumberUnknown | FsError::ContentsUnknown => Errno::ESTALE,
            FsError::Unusable | FsError::OutOfMemory => Errno::EIO,
            FsError::ReadOnly => Errno::EROFS,
            FsError::NoSuchAttribute => Errno::ENODATA,
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

/// Set in the number of a request that the kernel sends again (`FUSE_UNIQUE_RESEND`, fuse.h).
const RESENT: u64 = 1 << 63;

impl From<&Request> for Caller {
    fn from(request: &Request) -> Caller {
        Caller {
            uid: request.uid(),
            gid: request.gid(),
            groups: Groups::Unread,
            thread: request.pid(),
            process: ProcessOf::Unread,
            request: request.unique().0 & !RESENT,
        }
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
            (FsError::BadHandle, Errno::ESTALE),
            (FsError::Stopping, Errno::ESTALE),
            (FsError::ContentsUnknown, Errno::ESTALE),
            (FsError::NumberUnknown, Errno::ESTALE),
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
}
