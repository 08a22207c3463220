//! A credential, fetched when it is needed and not before.
//!
//! Invariants: never a file that is not to be trusted (`sys/safe_file.rs`), never an empty credential. What is
//! read is wiped when it is done with.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use zeroize::Zeroizing;

use crate::config::plan::CredentialSource;
use crate::core::error::{Failure, Fault};
use crate::secret::SecretBytes;
use crate::sys::safe_file;
use crate::vault::auth::refused::LOOK;

/// No credential is longer, in bytes.
const SIZE_MAX: u64 = 64 * 1024;

/// Reads the credential; `what` names it in messages. White space at its end is dropped.
pub(in crate::vault) async fn fetch(source: &CredentialSource, what: &str) -> Result<SecretBytes, Failure> {
    let refuse = |trouble: String| Failure {
        retry_after: Some(LOOK),
        ..Failure::new(Fault::Denied, format!("the {what} {trouble}"))
    };
    let bytes = match source {
        CredentialSource::File(path) => {
            let path = path.clone();
            let read = tokio::task::spawn_blocking(move || safe_file::read(&path, SIZE_MAX)).await;
            let read = read.map_err(|_| refuse("could not be read".to_owned()))?;
            read.map_err(|distrust| refuse(format!("file {distrust}")))?
        }
        CredentialSource::Variable(name) => {
            let value = std::env::var_os(name).map(OsString::into_vec).map(Zeroizing::new);
            value.ok_or_else(|| refuse(format!("is not there: set ${name}")))?
        }
        CredentialSource::Literal(text) => Zeroizing::new(text.clone().into_bytes()),
    };
    let trimmed = bytes.trim_ascii_end();
    if trimmed.is_empty() {
        return Err(refuse(format!("in {} is empty", place(source))));
    }
    if trimmed.iter().any(u8::is_ascii_control) {
        return Err(refuse(format!("in {} is more than one line, or not text", place(source))));
    }
    Ok(SecretBytes::new(trimmed.to_vec()))
}

/// A credential as text.
pub(super) fn text<'a>(bytes: &'a SecretBytes, what: &str) -> Result<&'a str, Failure> {
    std::str::from_utf8(bytes.expose())
        .map_err(|_| Failure::new(Fault::Denied, format!("the {what} is not UTF-8 text")))
}

/// Where it is, for messages.
pub(super) fn place(source: &CredentialSource) -> String {
    match source {
        CredentialSource::File(path) => path.display().to_string(),
        CredentialSource::Variable(name) => format!("${name}"),
        CredentialSource::Literal(_) => "the configuration".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    async fn trouble(source: CredentialSource) -> String {
        match fetch(&source, "secret id").await {
            Ok(_) => panic!("{source:?} was taken"),
            Err(failure) => {
                assert_eq!(failure.fault, Fault::Denied);
                failure.reason
            }
        }
    }

    #[tokio::test]
    async fn a_credential_file_is_read_without_its_newline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret-id");
        fs::write(&path, "s3cret\r\n\n").unwrap();
        let source = CredentialSource::File(path);
        assert_eq!(fetch(&source, "secret id").await.unwrap().expose(), b"s3cret");
    }

    #[tokio::test]
    async fn each_bad_credential_file_is_told_apart_and_never_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode: u32| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            CredentialSource::File(path)
        };
        for (source, told) in [
            (CredentialSource::File(directory.path().join("absent")), "does not exist"),
            (CredentialSource::File(directory.path().to_owned()), "is a directory"),
            (CredentialSource::File("/dev/zero".into()), "not a regular file"),
            (file("empty", "\n", 0o400), "is empty"),
            (file("lines", "marker\nmarker\n", 0o400), "more than one line"),
            (file("group", "marker", 0o620), "written by others"),
            (file("world", "marker", 0o602), "written by others"),
            (file("large", &"x".repeat(70_000), 0o400), "larger"),
            (CredentialSource::Variable("LEASEFS_TEST_UNSET".to_owned()), "set $LEASEFS_TEST_UNSET"),
        ] {
            let reason = trouble(source).await;
            assert!(reason.contains(told), "{reason}");
            assert!(!reason.contains("marker"), "{reason}");
        }
    }
}
