//! A credential, fetched when it is needed and not before.
//!
//! Invariants: never a device or a pipe (it could block for good), never a file that somebody else could
//! have written, never an empty credential. What is read is wiped when it is done with.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::config::plan::CredentialSource;
use crate::core::error::{Failure, Fault};
use crate::secret::SecretBytes;

/// No credential is longer, in bytes.
const SIZE_MAX: u64 = 64 * 1024;

/// How soon a place that holds no usable credential is looked at again.
const LOOK: Duration = Duration::from_secs(1);

/// Reads the credential; `what` names it in messages. White space at its end is dropped.
pub(in crate::vault) async fn fetch(source: &CredentialSource, what: &str) -> Result<SecretBytes, Failure> {
    let refuse = |trouble: String| Failure {
        retry_after: Some(LOOK),
        ..Failure::new(Fault::Denied, format!("the {what} {trouble}"))
    };
    let bytes = match source {
        CredentialSource::File(path) => {
            let path = path.clone();
            let read = tokio::task::spawn_blocking(move || read_file(&path)).await;
            read.map_err(|_| refuse("could not be read".to_owned()))?.map_err(refuse)?
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

fn place(source: &CredentialSource) -> String {
    match source {
        CredentialSource::File(path) => path.display().to_string(),
        CredentialSource::Variable(name) => format!("${name}"),
        CredentialSource::Literal(_) => "the configuration".to_owned(),
    }
}

fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let shown = path.display();
    let failed = |error: std::io::Error| format!("file {shown} can't be read: {error}");
    // Looked at before it is opened: opening a pipe that nobody writes to would wait for good.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(format!("file {shown} is not a regular file"));
    }
    let file = File::open(path).map_err(failed)?;
    let facts = file.metadata().map_err(failed)?;
    let mode = facts.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(format!("file {shown} may be written by others: chmod go-w {shown}"));
    }
    if facts.len() > SIZE_MAX {
        return Err(format!("file {shown} is larger than any credential"));
    }
    // One byte more than the file has, so that the vector need not move when it reads the end.
    let mut bytes = Zeroizing::new(Vec::with_capacity(facts.len() as usize + 1));
    file.take(SIZE_MAX).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
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
            (CredentialSource::File(directory.path().join("absent")), "No such file"),
            (CredentialSource::File(directory.path().to_owned()), "not a regular file"),
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
