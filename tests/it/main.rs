//! The promises of fastbuild, one module for each kind, in one program: the real binary against a
//! real engine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[macro_use]
mod common;

mod agent;
mod agent_workspace;
mod auto_route;
mod bench;
mod bench_page;
mod big;
mod caches;
mod calls;
mod cancellation;
mod crash;
mod differential;
mod disk_full;
mod docs;
mod doctor;
mod engine;
mod engine_faults;
mod events_doc;
mod exit_code;
mod foreign;
mod git;
mod healing;
mod host_engine;
mod hostile_archive;
mod identity;
mod job_control;
mod kept_paths;
mod kills;
mod locks;
mod memory_and_limits;
mod messages;
mod moments;
mod mount_routes;
mod mount_rule;
mod one_path;
mod outputs;
mod place;
mod places;
mod plain;
mod pull;
mod real_builds;
mod recover;
mod routes;
mod side_by_side;
mod slow_mounts;
mod sources;
mod status;
mod streams;
mod terminal;
mod trust;
mod watch;
mod why;
mod workspace;
mod workspace_cli;
mod workspace_engine;
mod workspace_kills;
