//! The host's source tree as it is now: scanned, with the digests that the index knows, and a summary to compare by.

use super::super::{BuildError, sources};
use crate::{
    plan::{Engine, Plan},
    report::Reporter,
    state::Project,
    tree::{
        Digest,
        ignore::Rules,
        index::{HashedAt, Index},
        scan::Scan,
        summary::{self, Summary},
    },
};

/// The host's side of a comparison.
#[derive(Debug)]
pub struct HostTree {
    /// The tree.
    pub scan: Scan,
    /// The digest of each file, as far as it is known without reading it.
    pub digests: Vec<Option<Digest>>,
    /// Of both.
    pub summary: Summary,
    /// What is no part of it.
    pub rules: Rules,
    /// From when on digests that are computed for this tree may be believed.
    pub hashed_at: HashedAt,
}

/// Looks at the source tree.
///
/// # Errors
/// As [`sources::look`].
pub fn look(plan: &Plan, project: &Project, reporter: &Reporter) -> Result<HostTree, BuildError> {
    let loading = std::thread::spawn({
        let index = project.index_path();
        move || Index::load(&index)
    });
    let hashed_at = HashedAt::now(&plan.source.value);
    let scan = sources::report_scan(plan, reporter)?;
    let index = loading.join().map_err(|_| BuildError::Panicked)?;
    let digests = index.digests(&scan.manifest);
    if plan.engine.value != Engine::Host && index.is_of_another(&plan.source.value, &scan.manifest, &digests)
    {
        return Err(BuildError::OtherProject);
    }
    let rules = sources::rules(plan)?;
    let buckets = summary::buckets_for(scan.manifest.entries().len());
    let summary = summary::of(&scan.manifest, &digests, buckets);
    Ok(HostTree { scan, digests, summary, rules, hashed_at })
}
