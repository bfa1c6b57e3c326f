//! Source trees of a given size, the same bytes every time: a Jekyll site, one large file, very many small files.

use std::{
    io::Write,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Result;

/// Numbers that look random and are the same in each run (xorshift64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Words of a to z, about `length` bytes of them.
    fn prose(&mut self, length: usize) -> String {
        let mut text = String::with_capacity(length + 12);
        while text.len() < length {
            let mut letters = self.next();
            for _ in 0..2 + letters % 8 {
                text.push(char::from(b'a' + (letters % 26) as u8));
                letters /= 26;
            }
            text.push(if self.next().is_multiple_of(12) { '\n' } else { ' ' });
        }
        text.truncate(length);
        text
    }

    /// Bytes that do not compress.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

const CONFIG: &str = "title: Bench\npermalink: /:year/:title/\n";
const LAYOUT: &str = "<!doctype html>\n<html><head><title>{{ page.title }}</title></head>\n\
    <body><h1>{{ page.title }}</h1>\n{{ content }}\n</body></html>\n";
const INDEX: &str = "---\nlayout: default\ntitle: Index\n---\n<ul>\n{% for post in site.posts %}\
    <li><a href=\"{{ post.url }}\">{{ post.title }}</a></li>\n{% endfor %}</ul>\n";

/// How many files a [`Site`] has beside those asked for.
pub const FRAME: u32 = 3;

/// A Jekyll site: every seventh file a post, the others assets.
#[derive(Debug, Clone, Copy)]
pub struct Site {
    /// How many, beside [`FRAME`] more.
    pub files: u32,
    /// Bytes of each.
    pub each: usize,
}

impl Site {
    /// Writes it below `dir`.
    pub fn make(self, dir: &Path) -> Result<()> {
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        put(&dir.join("_config.yml"), CONFIG.as_bytes())?;
        put(&dir.join("_layouts/default.html"), LAYOUT.as_bytes())?;
        put(&dir.join("index.html"), INDEX.as_bytes())?;
        for n in 0..self.files {
            let content = if is_post(n) {
                let head = format!("---\nlayout: default\ntitle: Post {n}\n---\n");
                (head + &noise.prose(self.each)).into_bytes()
            } else {
                noise.bytes(self.each)
            };
            put(&dir.join(path(n)), &content)?;
        }
        Ok(())
    }

    /// Files, the frame's too.
    pub fn count(self) -> u32 {
        self.files + FRAME
    }

    /// Some post, another one for each `nth` as far as there are.
    pub fn post(self, nth: u32) -> String {
        path(nth % self.files.div_ceil(7) * 7)
    }

    /// Where Jekyll puts the page of [`Site::post`], below the site that it makes.
    pub fn page(self, nth: u32) -> String {
        format!("2026/post-{}/index.html", nth % self.files.div_ceil(7) * 7)
    }

    /// `count` files spread over the whole tree, others for each `nth`.
    pub fn spread(self, count: u32, nth: u32) -> Vec<String> {
        let step = (self.files / count).max(1);
        (0..count.min(self.files)).map(|k| path((k * step + nth) % self.files)).collect()
    }
}

/// Where file `n` of a [`Site`] lies.
pub fn path(n: u32) -> String {
    if is_post(n) {
        let (month, day) = (1 + n / 28 % 12, 1 + n % 28);
        format!("_posts/2026-{month:02}-{day:02}-post-{n}.md")
    } else {
        format!("assets/{:02}/{n}.bin", n / 100)
    }
}

fn is_post(n: u32) -> bool {
    n.is_multiple_of(7)
}

/// A one-line edit: the file's last bytes become a line that says `stamp`; its size stays.
pub fn edit(path: &Path, stamp: &str) -> Result<()> {
    let mut content = fs_err::read(path)?;
    let line = format!("\nedited: {stamp}\n");
    let keep = content.len().saturating_sub(line.len());
    content.truncate(keep);
    content.extend_from_slice(line.as_bytes());
    Ok(fs_err::write(path, content)?)
}

/// One file of `bytes` bytes without a hole in it.
pub fn large_file(path: &Path, bytes: u64) -> Result<()> {
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let mut file = fs_err::File::create(path)?;
    let block = noise.bytes(1 << 20);
    let mut left = bytes;
    while left > 0 {
        let length = left.min(block.len() as u64) as usize;
        file.write_all(&block[..length])?;
        left -= length as u64;
    }
    Ok(())
}

/// `count` files of a few bytes in one directory.
pub fn many_files(dir: &Path, count: u32) -> Result<()> {
    fs_err::create_dir_all(dir)?;
    for n in 0..count {
        fs_err::write(dir.join(format!("file-{n}.txt")), format!("{n}\n"))?;
    }
    Ok(())
}

/// Writes a file with an mtime that is the same in every run.
fn put(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs_err::create_dir_all(parent)?;
    }
    fs_err::write(path, content)?;
    let new_year = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
    fs_err::File::options().write(true).open(path)?.into_file().set_modified(new_year)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(dir: &Path) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut open = vec![dir.to_owned()];
        while let Some(next) = open.pop() {
            for entry in fs_err::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                    found.push((name, fs_err::read(path).unwrap()));
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn the_site_has_the_files_asked_for_and_the_same_bytes_every_time() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let site = Site { files: 30, each: 100 };
        site.make(one.path()).unwrap();
        site.make(two.path()).unwrap();
        let files = listing(one.path());
        assert_eq!(files.len() as u32, site.count());
        assert!(files == listing(two.path()));
    }

    #[test]
    fn edited_files_are_of_the_tree_and_keep_their_size() {
        let dir = tempfile::tempdir().unwrap();
        let site = Site { files: 30, each: 100 };
        site.make(dir.path()).unwrap();
        for path in (0..40).flat_map(|nth| site.spread(3, nth).into_iter().chain([site.post(nth)])) {
            let path = dir.path().join(path);
            let size = fs_err::metadata(&path).unwrap().len();
            edit(&path, "round 3").unwrap();
            assert_eq!(fs_err::metadata(&path).unwrap().len(), size);
            assert!(fs_err::read(&path).unwrap().ends_with(b"\nedited: round 3\n"));
        }
    }
}
