//! The host's source tree as it is now: scanned, with the index's digests, and a summary.

use std::sync::Arc;

use crate::{
    build::{BuildError, blind_times::Watcher, sources},
    entry::{Kind, RelPath},
    outputs::{
        record::{Content, Record, Written},
        target::native_join,
    },
    plan::{Engine, Plan},
    report::Reporter,
    state::Project,
    tree::{
        Digest, Entry, Manifest,
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
    /// The paths that are not part of it.
    pub rules: Rules,
    /// The files that the index has and that are not here.
    pub gone: Vec<RelPath>,
    /// Is told when the command ends.
    pub watcher: Arc<Watcher>,
    /// The time from which digests computed for this tree are reliable.
    pub hashed_at: HashedAt,
}

/// Scans the source tree.
///
/// # Errors
/// As [`sources::look`].
pub fn look(plan: &Plan, project: &Project, reporter: &Reporter) -> Result<HostTree, BuildError> {
    let loading = std::thread::spawn({
        let index = project.index_path();
        move || Index::load(&index)
    });
    let hashed_at = HashedAt::now(&plan.source.value);
    let mut scan = sources::report_scan(plan, project, reporter)?;
    let index = loading.join().map_err(|_| BuildError::Panicked)?;
    let record = || Record::load(&project.record_path());
    let watcher = Watcher::show(project.edits_path(), &mut scan, &plan.source.value, &index, record);
    let rules = sources::rules(plan)?;
    let mut gone = Vec::new();
    let digests = index.digests_and_gone(&scan.manifest, |path| {
        let path = RelPath::new(path).ok();
        let was_source = |path: &RelPath| !plan.ignore.leaves_out(path) && !rules.ignores(path);
        gone.extend(path.filter(was_source));
    });
    if plan.engine.value != Engine::Host && index.is_of_another(&plan.source.value, &scan.manifest, &digests)
    {
        return Err(BuildError::OtherProject);
    }
    let buckets = summary::buckets_for(scan.manifest.entries().len());
    let summary = summary::of(&scan.manifest, &digests, buckets);
    Ok(HostTree { scan, digests, summary, rules, gone, watcher: Arc::new(watcher), hashed_at })
}

impl HostTree {
    /// Takes from the record the content of products that only root may read.
    pub fn know_products(&mut self, plan: &Plan, record: &Record) {
        const READS: u32 = 0o444;
        let mut is_changed = false;
        for (entry, digest) in self.scan.manifest.entries().iter().zip(&mut self.digests) {
            if digest.is_some() || entry.mode & READS != 0 {
                continue;
            }
            match record.get(&native_join(&plan.source.value, &entry.path)) {
                Some(Written { what: Content::File(known), stamp, .. }) if stamp == entry.stamp => {
                    (*digest, is_changed) = (Some(known), true);
                }
                _ => {}
            }
        }
        if is_changed {
            let buckets = summary::buckets_for(self.scan.manifest.entries().len());
            self.summary = summary::of(&self.scan.manifest, &self.digests, buckets);
        }
    }

    /// Leaves out paths that the workspace keeps in addition to the plan's.
    ///
    /// # Errors
    /// An invalid pattern.
    pub fn leave_out(&mut self, kept: &[String], plan: &Plan) -> Result<(), BuildError> {
        if kept.is_empty() {
            return Ok(());
        }
        self.rules = Rules::new(kept.iter().map(String::as_str).chain(plan.ignore.lines()))?;
        let entries = std::mem::take(&mut self.scan.manifest).into_entries().into_iter();
        let digests = std::mem::take(&mut self.digests).into_iter();
        let is_synced = |path: &RelPath| !self.rules.ignores(path);
        let is_left = |(entry, _): &(Entry, _)| match entry.kind {
            Kind::Directory => !self.rules.bars(&entry.path),
            _ => is_synced(&entry.path),
        };
        let mut left: Vec<_> = entries.zip(digests).filter(is_left).collect();
        // From the end: a directory that was entered for exceptions alone stays if it contains one.
        for at in (0..left.len()).rev() {
            let path = &left[at].0.path;
            let leads = left.get(at + 1).is_some_and(|(next, _)| next.path.strip_prefix(path).is_some());
            if !leads && !is_synced(path) {
                left.remove(at);
            }
        }
        let (entries, digests) = left.into_iter().unzip();
        self.scan.skipped.retain(|(path, _)| is_synced(path));
        (self.scan.manifest, self.digests) = (Manifest::from_entries(entries), digests);
        let buckets = summary::buckets_for(self.scan.manifest.entries().len());
        self.summary = summary::of(&self.scan.manifest, &self.digests, buckets);
        Ok(())
    }
}
