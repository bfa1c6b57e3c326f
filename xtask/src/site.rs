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

/// How many files a [`jekyll`] site has beside those asked for.
pub const FRAME: u32 = 3;

/// A Jekyll site of `files` files and [`FRAME`] more, 10 KB each: every seventh a post, the others assets.
pub fn jekyll(dir: &Path, files: u32) -> Result<()> {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    put(&dir.join("_config.yml"), CONFIG.as_bytes())?;
    put(&dir.join("_layouts/default.html"), LAYOUT.as_bytes())?;
    put(&dir.join("index.html"), INDEX.as_bytes())?;
    for n in 0..files {
        if n.is_multiple_of(7) {
            let (month, day) = (1 + n / 28 % 12, 1 + n % 28);
            let head = format!("---\nlayout: default\ntitle: Post {n}\n---\n");
            let path = format!("_posts/2026-{month:02}-{day:02}-post-{n}.md");
            put(&dir.join(path), (head + &noise.prose(10_000)).as_bytes())?;
        } else {
            put(&dir.join(format!("assets/{:02}/{n}.bin", n / 100)), &noise.bytes(10_000))?;
        }
    }
    Ok(())
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
        jekyll(one.path(), 30).unwrap();
        jekyll(two.path(), 30).unwrap();
        let files = listing(one.path());
        assert_eq!(files.len() as u32, 30 + FRAME);
        assert!(files == listing(two.path()));
    }
}
