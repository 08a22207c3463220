//! The kernel side: the mount itself, what the kernel is told, and what it is told to forget.
//!
//! [`adapter`] takes the requests, [`mount_point`] finds out whether a directory can be mounted on, [`session`] mounts, serves and
//! unmounts, for ordinary users by [`fusermount`], whose refusals [`refusal`] explains, [`sharing`] lets containers see it, [`notify`] ends what the kernel has cached, [`convert`] turns situations into errnos. What
//! decides how the kernel caches stands here, so that everything that serves a mount agrees on it.

pub mod adapter;
pub mod convert;
pub mod fusermount;
pub mod handshake;
pub mod kept;
pub mod mount_point;
pub mod mountinfo;
pub mod notify;
pub mod refusal;
pub mod session;
pub mod sharing;

use std::time::Duration;

use fuser::FopenFlags;

/// How long the kernel keeps a name, or attributes that are known to be right. What changes earlier is
/// taken back by a notification.
pub const LONG_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// How files are opened: every read is a request, so that it can be refused, recorded and ended at once
/// (`FOPEN_DIRECT_IO`, include/uapi/linux/fuse.h).
pub const FILE_FLAGS: FopenFlags = FopenFlags::FOPEN_DIRECT_IO;

/// How directories are opened: the kernel keeps their lists from one open to the next, until a
/// notification ends them.
pub const DIRECTORY_FLAGS: FopenFlags = FopenFlags::FOPEN_CACHE_DIR.union(FopenFlags::FOPEN_KEEP_CACHE);
