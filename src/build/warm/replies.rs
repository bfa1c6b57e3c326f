//! The far end's replies, decoded.

use std::io::BufReader;

use crate::{
    agent::{channel::ChunkReader, client::SessionError, protocol::Room},
    entry::RelPath,
    tree::node::{Node, NodeError, NodeReader},
};

/// The far end's reply about the workspace's source root.
pub(in crate::build) struct Opened {
    /// The free room before anything was sent.
    pub(in crate::build) room: Room,
    /// Paths that other builds are making there, which are left alone.
    pub(in crate::build) others: Vec<RelPath>,
    /// The paths that it keeps in addition to the plan's.
    pub(in crate::build) kept: Vec<String>,
}

/// Decodes nodes as they come.
pub(super) fn node_reader(from: ChunkReader) -> NodeReader<BufReader<ChunkReader>> {
    NodeReader::new(BufReader::new(from))
}

/// The same, one by one.
pub(super) fn nodes(from: ChunkReader) -> impl Iterator<Item = Result<Node, NodeError>> {
    let mut reader = node_reader(from);
    std::iter::from_fn(move || reader.next_node().transpose())
}

/// The error for data that is well formed but makes no sense.
pub(super) fn nonsense(detail: impl ToString) -> SessionError {
    SessionError::Damaged { detail: detail.to_string(), diagnostics: String::new() }
}
