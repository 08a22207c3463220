//! A command with a tree of its own: what `leasefs run` consists of besides its arguments.
//!
//! Two processes. The *supervisor* is the one that the user started: it has one thread and no token in use,
//! starts the command, passes signals on and waits. The *server* is forked from it, in a session of its own:
//! it holds the tokens and the bytes, mounts and serves. Each notices the end of the other by the socket
//! between them, so that the death of either one ends the whole: the server gives everything back, the
//! supervisor ends the command.
//!
//! | namespace | who is in it | what is in it |
//! | --- | --- | --- |
//! | the user's | the shell | nothing of this |
//! | the server's | the server | the tree; credentials can still be read |
//! | the command's | the supervisor, the command | the tree, files bound over others, credentials covered |
//!
//! | file | responsibility |
//! | --- | --- |
//! | `namespace.rs` | the namespace, and why there is none |
//! | `place.rs` | the directory that the tree is mounted on |
//! | `scene.rs` | what the command sees elsewhere: files bound over others |
//! | `environment.rs` | the command's variables |
//! | `words.rs` | what the server tells the supervisor |
//! | `supervisor.rs` | starting, signals, waiting, ending |

pub mod environment;
pub mod namespace;
pub mod place;
pub mod scene;
pub mod supervisor;
pub mod words;
