//! An image in which no agent can run.

use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
};

/// The same image under another name, which says that it is for another processor. Its programs run here all the same.
pub fn load_for_other_processor(image: &str, name: &str) {
    let saved = Command::new("docker").args(["save", image]).output().unwrap();
    assert!(saved.status.success(), "{saved:?}");
    let mut archive = tar::Archive::new(saved.stdout.as_slice());
    let mut altered = tar::Builder::new(Vec::new());
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let (mut header, path) = (entry.header().clone(), entry.path().unwrap().into_owned());
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = String::from_utf8(content)
                .unwrap()
                .replace(r#""architecture":"amd64""#, r#""architecture":"s390x""#);
            let text = text.replace(r#""architecture":"arm64""#, r#""architecture":"s390x""#);
            content = text.replace(image, name).into_bytes();
        }
        header.set_size(content.len() as u64);
        altered.append_data(&mut header, path, content.as_slice()).unwrap();
    }
    let mut load =
        Command::new("docker").arg("load").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    load.stdin.take().unwrap().write_all(&altered.into_inner().unwrap()).unwrap();
    assert!(load.wait().unwrap().success());
}
