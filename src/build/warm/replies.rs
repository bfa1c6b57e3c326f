//! What the far end says, decoded.

use std::io::BufReader;

use crate::{
    agent::{channel::ChunkReader, near::SessionError, protocol::Room},
    entry::RelPath,
    tree::node::{Node, NodeError, NodeReader},
};

/// What the far end says of the workspace's source root.
pub(in crate::build) struct Opened {
    /// What there was room for before anything was sent.
    pub(in crate::build) room: Room,
    /// What others are making there, and is left alone.
    pub(in crate::build) others: Vec<RelPath>,
    /// What it keeps beside what the plan names.
    pub(in crate::build) kept: Vec<String>,
}

/// Decodes nodes as they come.
pub(super) fn node_reader(from: ChunkReader) -> NodeReader<BufReader<ChunkReader>> {
    NodeReader::new(BufReader::new(from))
}

/// The same, for who takes them one by one.
pub(super) fn nodes(from: ChunkReader) -> impl Iterator<Item = Result<Node, NodeError>> {
    let mut reader = node_reader(from);
    std::iter::from_fn(move || reader.next_node().transpose())
}

/// What came is well formed and makes no sense.
pub(super) fn nonsense(detail: impl ToString) -> SessionError {
    SessionError::Damaged { detail: detail.to_string(), diagnostics: String::new() }
}
