//! Tar streams written header by header, so that they can say what no writer would let them say.

use tar::{EntryType, Header};

/// One header as it will be written, with whatever follows it.
#[derive(Clone)]
pub struct Raw {
    header: Header,
    data: Vec<u8>,
}

/// An entry of a kind, with mode 0755 or 0644 and a time in the past.
pub fn raw(kind: EntryType, name: impl AsRef<[u8]>) -> Raw {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_mtime(1_500_000_000);
    header.set_size(0);
    header.set_uid(0);
    header.set_gid(0);
    let name = name.as_ref();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    Raw { header, data: Vec::new() }
}

/// A directory.
pub fn dir(name: impl AsRef<[u8]>) -> Raw {
    raw(EntryType::Directory, name)
}

/// A regular file.
pub fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Raw {
    raw(EntryType::Regular, name).data(content)
}

/// A symbolic link.
pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Raw {
    raw(EntryType::Symlink, name).link(target)
}

/// A hard link.
pub fn hard_link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Raw {
    raw(EntryType::Link, name).link(target)
}

/// An extended header with these records.
pub fn pax(records: &[(&str, &[u8])]) -> Raw {
    let mut data = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let digits = (1..).find(|digits| (rest + digits).to_string().len() == *digits).unwrap();
        data.extend_from_slice(format!("{} {key}=", rest + digits).as_bytes());
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    raw(EntryType::XHeader, "PaxHeaders/x").data(data)
}

impl Raw {
    /// The link's target.
    pub fn link(mut self, target: impl AsRef<[u8]>) -> Raw {
        let target = target.as_ref();
        self.header.as_old_mut().linkname[..target.len()].copy_from_slice(target);
        self
    }

    /// Content, and the size that goes with it.
    pub fn data(mut self, data: impl AsRef<[u8]>) -> Raw {
        self.data = data.as_ref().to_vec();
        self.header.set_size(self.data.len() as u64);
        self
    }

    /// Changes the header; the checksum is made right afterwards.
    pub fn header(mut self, change: impl FnOnce(&mut Header)) -> Raw {
        change(&mut self.header);
        self
    }

    /// As it lies in the stream: header, content, zeros up to a whole block.
    pub fn bytes(&self) -> Vec<u8> {
        let mut header = self.header.clone();
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&self.data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }
}

/// Entries without an end mark.
pub fn open_stream(entries: &[Raw]) -> Vec<u8> {
    entries.iter().flat_map(Raw::bytes).collect()
}

/// Entries and an end mark: a whole archive.
pub fn stream(entries: &[Raw]) -> Vec<u8> {
    let mut bytes = open_stream(entries);
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}
