//! `devcontainer.json` -> the image that the project itself names. Other keys are not read.

use std::{
    io,
    path::{Path, PathBuf},
};

use fs_err as fs;
use serde_json::Value;

use crate::sys::source_file::says_gone;

/// The possible places of the file below the source root. The first one that exists is used.
const PLACES: [&str; 2] = [".devcontainer/devcontainer.json", ".devcontainer.json"];

/// What the project's file says about an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Devcontainer {
    /// There is no file.
    None,
    /// The file names an image.
    Image {
        /// The reference.
        image: String,
        /// The file.
        path: PathBuf,
    },
    /// The project gets its image in another way.
    NoImage {
        /// The other way, as the end of a sentence that begins with "it".
        how: &'static str,
        /// The file.
        path: PathBuf,
    },
}

impl Devcontainer {
    /// The reason why the file gives no image, after a colon. Empty when there is no file.
    pub fn why_no_image(&self) -> String {
        match self {
            Devcontainer::NoImage { how, path } => format!(": there is {path:?}, but it {how}"),
            Devcontainer::Image { .. } | Devcontainer::None => String::new(),
        }
    }
}

/// A problem with the file.
#[derive(Debug, thiserror::Error)]
pub enum DevcontainerError {
    /// The file exists and cannot be read.
    #[error("could not read the project's devcontainer; name an image with -i to do without it")]
    Read(#[source] io::Error),
    /// The file is not JSON with comments, or its `image` is not a string.
    #[error("{}:{line}: {problem}; name an image with -i to do without this file", .path.to_string_lossy())]
    Text {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The problem there.
        problem: String,
    },
}

/// Looks for the file below the source root.
///
/// # Errors
/// When the file exists and is broken.
pub fn look(source: &Path) -> Result<Devcontainer, DevcontainerError> {
    for place in PLACES {
        let path = source.join(place);
        match fs::read(&path) {
            Ok(bytes) => return parse(path, &bytes),
            Err(error) if says_gone(&error) => {}
            Err(error) => return Err(DevcontainerError::Read(error)),
        }
    }
    Ok(Devcontainer::None)
}

fn parse(path: PathBuf, bytes: &[u8]) -> Result<Devcontainer, DevcontainerError> {
    let json = strip_comments(bytes);
    let wrong = |line, problem: &str| DevcontainerError::Text {
        path: path.clone(),
        line,
        problem: problem.to_owned(),
    };
    let file: Value =
        serde_json::from_slice(&json).map_err(|error| wrong(error.line(), &error.to_string()))?;
    match file.get("image") {
        Some(Value::String(image)) if image.contains("${") => {
            let problem = format!("its image {image:?} holds a variable, which fastbuild does not replace");
            Err(wrong(line_of_image(bytes), &problem))
        }
        Some(Value::String(image)) if !image.is_empty() => {
            Ok(Devcontainer::Image { image: image.clone(), path })
        }
        Some(_) => Err(wrong(line_of_image(bytes), "image must be a string that is not empty")),
        None => Ok(Devcontainer::NoImage { how: other_way(&file), path }),
    }
}

fn other_way(file: &Value) -> &'static str {
    if file.get("dockerComposeFile").is_some() {
        "takes its image from a Compose file"
    } else if file.get("build").is_some() || file.get("dockerFile").is_some() {
        "builds its image from a Dockerfile"
    } else {
        "names no image"
    }
}

/// The line where `"image"` appears first. This is accurate enough for a file of a few lines.
fn line_of_image(bytes: &[u8]) -> usize {
    let at = bytes.windows(7).position(|window| window == b"\"image\"").unwrap_or(0);
    bytes[..at].iter().filter(|&&b| b == b'\n').count() + 1
}

/// Blanks out comments and trailing commas. The rest is JSON with unchanged line numbers.
fn strip_comments(bytes: &[u8]) -> Vec<u8> {
    let mut json = bytes.to_vec();
    if json.starts_with(b"\xef\xbb\xbf") {
        json[..3].fill(b' ');
    }
    let mut comma = None;
    let mut at = 0;
    while at < json.len() {
        let end = match &json[at..] {
            [b'"', ..] => string_end(&json, at),
            [b'/', b'/', ..] => blank(&mut json, at, |rest| rest.iter().position(|&b| b == b'\n')),
            [b'/', b'*', ..] => blank(&mut json, at, |rest| {
                rest[2..].windows(2).position(|pair| pair == b"*/").map(|found| found + 4)
            }),
            _ => at + 1,
        };
        match json[at] {
            b',' => comma = Some(at),
            b'}' | b']' => {
                if let Some(comma) = comma.take() {
                    json[comma] = b' ';
                }
            }
            byte if byte.is_ascii_whitespace() => {}
            _ => comma = None,
        }
        at = end;
    }
    json
}

fn string_end(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(&byte) = json.get(at) {
        at += if byte == b'\\' { 2 } else { 1 };
        if byte == b'"' {
            break;
        }
    }
    at.min(json.len())
}

/// Blanks out `length` bytes from `start` (without a length: all), except newlines.
fn blank(json: &mut [u8], start: usize, length: impl Fn(&[u8]) -> Option<usize>) -> usize {
    let end = length(&json[start..]).map_or(json.len(), |length| start + length);
    json[start..end].iter_mut().filter(|byte| **byte != b'\n').for_each(|byte| *byte = b' ');
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> Result<Devcontainer, String> {
        parse(PathBuf::from("d.json"), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn comments_and_trailing_commas_are_no_obstacle() {
        let cases = [
            r#"{"image": "a//b"}"#,
            "\u{feff}{\"image\": \"a//b\",}",
            "// é /* \n{ /* \"image\": \"no\", // */ \"image\": \"a//b\", // last\n}",
            r#"{"x": "quote \" // /*", "y": [1, 2, /* , */ ], "image": "a//b", "z": "*/",}"#,
            "{\"image\": \"a//b\"} // no newline at the end",
            "{\"x\": \"a,}\", \"image\": \"a//b\"}/**/",
        ];
        for text in cases {
            let Ok(Devcontainer::Image { image, .. }) = image(text) else {
                panic!("{text}: {:?}", image(text))
            };
            assert_eq!(image, "a//b", "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn lines_stay_where_they_are(text in r#"(//|/\*|\*/|[\\"/*,}\]\n a])*"#) {
            let stripped = strip_comments(text.as_bytes());
            let newlines = |bytes: &[u8]| bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at).collect::<Vec<_>>();
            proptest::prop_assert_eq!(stripped.len(), text.len());
            proptest::prop_assert_eq!(newlines(&stripped), newlines(text.as_bytes()));
        }
    }

    #[test]
    fn images_that_are_made_in_another_way_are_told_apart() {
        let cases = [
            (r#"{"build": {"dockerfile": "Dockerfile"}}"#, "builds its image from a Dockerfile"),
            (r#"{"dockerComposeFile": "c.yml"}"#, "takes its image from a Compose file"),
            ("{}", "names no image"),
        ];
        for (text, expected) in cases {
            let Ok(Devcontainer::NoImage { how, .. }) = image(text) else { panic!("{text}") };
            assert_eq!(how, expected);
        }
    }

    #[test]
    fn broken_files_name_their_line() {
        let cases = [
            ("{\n// c\n\"image\" \"x\"}", "d.json:3: expected `:`"),
            ("{\n\"image\": 3}", "d.json:2: image must be a string"),
            (
                "{\"image\": \"x:${localEnv:TAG}\"}",
                "d.json:1: its image \"x:${localEnv:TAG}\" holds a variable",
            ),
            ("{\n\"image\": \"x\"\n/* no end", "d.json:3: EOF"),
            ("/", "d.json:1: "),
            ("\"", "d.json:1: "),
            ("\"\\", "d.json:1: "),
        ];
        for (text, expected) in cases {
            let said = image(text).unwrap_err();
            assert!(said.starts_with(expected), "{text:?} said {said}");
        }
        assert!(image("{,}").is_ok(), "a lone comma is forgiven");
    }
}
