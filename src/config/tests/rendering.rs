//! How files are shown: formats and templates.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use super::mistakes::check;
use super::*;
use crate::config::plan::Format;
use crate::render::{Content, Decode, FieldPath, PemPart, TrailingNewline};

fn format_of(text: &str) -> Format {
    let plan = read(&format!("[file.a]\n{text}")).unwrap();
    plan.files[0].format.clone()
}

fn path(text: &str) -> FieldPath {
    FieldPath::parse(text).unwrap()
}

#[test]
fn a_format_shows_a_field_or_all() {
    let some = |text: &str| Some(path(text));
    use PemPart::{Certificate, Chain, Key};
    for (text, content) in [
        ("secret = 'kv/a#b'", Content::Raw { field: path("b"), decode: Decode::Nothing }),
        ("secret = 'kv/a#/b/0'", Content::Raw { field: path("/b/0"), decode: Decode::Nothing }),
        ("secret = 'kv/a#/~1b'", Content::Raw { field: FieldPath::name("/b"), decode: Decode::Nothing }),
        ("secret = 'kv/a'\nfield = '/b/0'", Content::Raw { field: path("/b/0"), decode: Decode::Nothing }),
        ("secret = 'kv/a#b'\ndecode = 'base64'", Content::Raw { field: path("b"), decode: Decode::Base64 }),
        ("secret = 'kv/a'", Content::Json { field: None }),
        ("secret = 'kv/a#/b'\nformat = 'json'", Content::Json { field: some("b") }),
        ("secret = 'kv/a'\nformat = 'env'", Content::Env { field: None }),
        ("secret = 'kv/a#b'\nformat = 'yaml'", Content::Yaml { field: some("b") }),
        ("secret = 'kv/a'\nformat = 'properties'", Content::Properties { field: None }),
        (
            "secret = 'pki/a'\nformat = 'pem-bundle'",
            Content::PemBundle { field: None, parts: vec![Certificate, Chain, Key] },
        ),
        (
            "secret = 'pki/a'\nbundle = ['key', 'certificate']",
            Content::PemBundle { field: None, parts: vec![Key, Certificate] },
        ),
    ] {
        assert_eq!(format_of(text), Format::of(content), "{text}");
    }
}

#[test]
fn how_files_end_is_inherited_and_goes_for_the_names_of_a_dir() {
    let plan = read(
        "[defaults]\ntrailing-newline = 'add'\n\
         [file.a]\nsecret = 'kv/a#x'\n\
         [file.b]\nsecret = 'kv/a'\ntrailing-newline = 'keep'\n\
         [dir.c]\nsecret = 'kv/c'\nnames = { '/x/0' = 'x', '/~1y' = 'y' }\ntrailing-newline = 'strip'\n\
         [dir.d]\nsecret = 'kv/d'\n",
    )
    .unwrap();
    use TrailingNewline::{Add, Keep, Strip};
    let newlines: Vec<TrailingNewline> = plan.files.iter().map(|file| file.format.newline).collect();
    assert_eq!(newlines, [Add, Keep, Strip, Strip]);
    let contents: Vec<&Content> = plan.files[2..].iter().map(|file| &file.format.content).collect();
    let raw = |text: &str| Content::Raw { field: path(text), decode: Decode::Nothing };
    assert_eq!(contents, [&raw("/x/0"), &raw("/~1y")]);
}

#[test]
fn a_template_is_compiled_and_its_variables_are_not_those_of_the_environment() {
    let plan = read(
        "[vault]\nmax-secret-size = '2KiB'\n[defaults]\nformat = 'raw'\n\
         [file.a]\nsecret = 'kv/a'\ntemplate = '''\n${NAME} {{ x }}\n'''\n",
    )
    .unwrap();
    let Content::Template(template) = &plan.files[0].format.content else { panic!("{:?}", plan.files) };
    let same = crate::render::Template::new("${NAME} {{ x }}\n", crate::render::Names::Fields, 2048);
    assert_eq!(template, &same.unwrap());
}

#[test]
fn mistakes_about_formats_are_told_what_to_write() {
    check(&[
        (
            "[file.a]\nsecret = 'kv/a'\nformat = 'toml'",
            "3: file.a.format",
            "write `format =` \"raw\", \"json\", \"env\",",
        ),
        (
            "[file.a]\nsecret = 'kv/a#/x~y'",
            "2: file.a.secret",
            "the JSON pointer \"/x~y\" has a `~` that is neither",
        ),
        ("[file.a]\nsecret = 'kv/a'\nfield = '/~'", "3: file.a.field", "write `~0` for a tilde"),
        (
            "[dir.a]\nsecret = 'kv/a'\nnames = { '/~' = 'x' }",
            "3: dir.a.names.\"/~\"",
            "write `~0` for a tilde",
        ),
        ("[file.a]\nsecret = 'kv/a#x'\ndecode = 'hex'", "3: file.a.decode", "write `decode =` \"base64\""),
        ("[file.a]\nsecret = 'kv/a'\ndecode = 'base64'", "1: file.a.format", "write `field = \"…\"`"),
        (
            "[file.a]\nsecret = 'kv/a'\nformat = 'env'\ndecode = 'base64'",
            "4: file.a.decode",
            "write `format = \"raw\"`",
        ),
        (
            "[file.a]\nsecret = 'kv/a#x'\nbundle = ['key']",
            "3: file.a.bundle",
            "write `format = \"pem-bundle\"`, or leave it out",
        ),
        ("[file.a]\nsecret = 'kv/a'\nbundle = ['ca']", "3: file.a.bundle", "has \"ca\", which means nothing"),
        ("[file.a]\nsecret = 'kv/a'\nbundle = ['key', 'key']", "3: file.a.bundle", "has \"key\" twice"),
        ("[file.a]\nsecret = 'kv/a'\nbundle = []", "3: file.a.bundle", "is an empty list: write those of"),
        ("[dir.a]\nsecret = 'kv/a'\nformat = 'env'", "3: dir.a.format", "declare a [file]"),
        ("[tree.a]\nsecret = 'kv/a'\nformat = 'yaml'", "3: tree.a.format", "declare a [file]"),
        (
            "[file.a]\nsecret = 'kv/a'\ntrailing-newline = true",
            "3: file.a.trailing-newline",
            "write `trailing-newline =` \"keep\", \"add\" or \"strip\"",
        ),
        ("[tree.a]\nsecret = 'kv/a'\ntrailing-newline = 'add'", "3: tree.a.trailing-newline", "leave it out"),
        (
            "[dir.a]\nsecret = 'kv/a'\ntrailing-newline = 'add'",
            "3: dir.a.trailing-newline",
            "`names` in a [dir]",
        ),
    ]);
}

#[test]
fn mistakes_about_templates_are_told_where_they_are() {
    check(&[
        (
            "[file.a]\nsecret = 'kv/a'\ntemplate = '''\nx\n{{ a | }}'''",
            "3: file.a.template",
            "line 2 of the template is wrong: unexpected end of variable block",
        ),
        (
            "[file.a]\nsecret = 'kv/a'\ntemplate = '{{ a | default(1) }}'",
            "3: file.a.template",
            "`default` would hide that a secret is missing",
        ),
        ("[file.a]\nsecret = 'kv/a#b'\ntemplate = 'x'", "2: file.a.secret", "stands beside a template"),
        ("[file.a]\nsecret = 'kv/a'\nfield = 'b'\ntemplate = 'x'", "3: file.a.field", "beside a template"),
        (
            "[file.a]\nsecret = 'kv/a'\nformat = 'env'\ntemplate = 'x'",
            "3: file.a.format",
            "beside a template",
        ),
        (
            "[file.a]\nsecret = 'kv/a'\ndecode = 'base64'\ntemplate = 'x'",
            "3: file.a.decode",
            "beside a template",
        ),
        (
            "[file.a]\nsecret = 'kv/a'\nbundle = 'key'\ntemplate = 'x'",
            "3: file.a.bundle",
            "beside a template",
        ),
        ("[file.a]\nsecret = 'kv/a'\ntemplate-file = 'x'", "3: file.a.template-file", "is a relative path"),
        (
            "[file.a]\nsecret = 'kv/a'\ntemplate-file = '/nowhere/x.j2'",
            "3: file.a.template-file",
            "/nowhere/x.j2 does not exist: create it",
        ),
        ("[dir.a]\nsecret = 'kv/a'\ntemplate = 'x'", "3: dir.a.template", "unknown key `template`"),
    ]);
}

#[test]
fn the_file_of_a_template_is_read_with_the_configuration_if_nobody_else_could_write_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pgpass.j2");
    let (pipe, link) = (directory.path().join("pipe"), directory.path().join("link"));
    fs::write(&file, "{{ username }}\n").unwrap();
    symlink(&file, &link).unwrap();
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    let owner = Environment::from_process().uid;
    let with = |path: &Path, uid: u32| {
        let text = format!("[file.a]\nsecret = 'kv/a'\ntemplate-file = '{}'", path.display());
        read_in(&text, &environment_of(uid)).map_err(|complaints| complaints.to_string())
    };
    let inline = "[file.a]\nsecret = 'kv/a'\ntemplate = \"{{ username }}\\n\"";
    let inline = read_in(inline, &environment_of(owner)).unwrap();
    for path in [&file, &link] {
        assert_eq!(with(path, owner).unwrap().files, inline.files);
    }
    for (path, fragment) in
        [(&pipe, "pipe is no regular file"), (&directory.path().to_owned(), "is no regular file")]
    {
        let said = with(path, owner).unwrap_err();
        assert!(
            said.starts_with("agent.toml:3: file.a.template-file: ") && said.contains(fragment),
            "{said}"
        );
    }
    if owner != 0 {
        assert!(with(&file, owner + 1).unwrap_err().contains("who could change it: chown it to root"));
    }
    fs::set_permissions(&file, Permissions::from_mode(0o606)).unwrap();
    assert!(with(&file, owner).unwrap_err().contains("can be written by everybody: chmod o-w"));
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    fs::write(&file, "one\n{{ a | nope }}").unwrap();
    let said = with(&file, owner).unwrap_err();
    assert!(
        said.contains(&format!("line 2 of {} is wrong: there is no filter `nope`", file.display())),
        "{said}"
    );
    fs::write(&file, vec![b'x'; (1 << 20) + 1]).unwrap();
    assert!(with(&file, owner).unwrap_err().contains("is longer than 1 MiB"));
    fs::write(&file, b"\xff").unwrap();
    assert!(with(&file, owner).unwrap_err().contains("is not UTF-8"));
}
