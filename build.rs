//! Builds the agent: the static Linux program that fastbuild puts into workspaces, from this same crate, so that it is
//! there however fastbuild is installed. `src/agent/program.rs` embeds what this leaves in `OUT_DIR`.
//!
//! | `FASTBUILD_AGENT` | what is embedded |
//! |---|---|
//! | not set | built here, where the target is Linux; none for other targets |
//! | a path | the file there (release archives for macOS and Windows carry a Linux agent) |
//! | `none` | none: every build is cold |

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, exit},
};

/// Linked statically, with the C library inside: it has to run in an empty image.
const STATIC: &str = "-Ctarget-feature=+crt-static";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=FASTBUILD_AGENT");
    if env::var_os("CARGO_FEATURE_CLIENT").is_none() {
        return;
    }
    // What the agent is made of; cargo itself looks more closely.
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        "src/lib.rs",
        "src/bin",
        "src/agent",
        "src/archive",
        "src/entry",
        "src/measure",
        "src/sys",
        "src/text",
        "src/tree",
        "src/user.rs",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    let out = PathBuf::from(variable("OUT_DIR")).join("agent");
    match env::var("FASTBUILD_AGENT").as_deref() {
        Ok("none") => leave(&out, None),
        Ok(path) => {
            println!("cargo::rerun-if-changed={path}");
            leave(&out, Some(Path::new(path)));
        }
        Err(_) if variable("CARGO_CFG_TARGET_OS") == "linux" => leave(&out, Some(&build())),
        Err(_) => leave(&out, None),
    }
}

/// Puts the program where the crate embeds it from; an empty file stands for none.
fn leave(out: &Path, program: Option<&Path>) {
    let left = match program {
        Some(program) => fs::copy(program, out).map(|_| ()),
        None => fs::write(out, b""),
    };
    if let Err(error) = left {
        fail(&format!("could not put the agent {program:?} at {out:?}: {error}"));
    }
}

/// Builds the agent for this build's own target and gives its path.
fn build() -> PathBuf {
    let target = variable("TARGET");
    let target_dir = target_dir();
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .arg("build")
        .args([
            "--bin",
            "fastbuild-agent",
            "--no-default-features",
            "--features",
            "agent",
            "--profile",
            "agent",
        ])
        .args(["--target", &target])
        .arg("--target-dir")
        .arg(&target_dir)
        .arg("--manifest-path")
        .arg(Path::new(&variable("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .env("CARGO_ENCODED_RUSTFLAGS", STATIC);
    // What is meant for the outer build: clippy in the compiler's place, and the flags that cargo gave to this script.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let outer = ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET"]
            .contains(&&*name)
            || name.starts_with("CARGO_FEATURE_")
            || name.starts_with("CARGO_CFG_")
            || name.starts_with("CARGO_PROFILE_");
        if outer {
            cargo.env_remove(&*name);
        }
    }
    match cargo.output() {
        Ok(done) if done.status.success() => {}
        Ok(done) => fail(&format!(
            "could not build the agent, the static Linux program that fastbuild puts into workspaces:\n{}\n\
             It needs the static C library (Debian: libc6-dev, Fedora: glibc-static). FASTBUILD_AGENT=none builds a \
             fastbuild without it, whose builds are all cold.",
            String::from_utf8_lossy(&done.stderr)
        )),
        Err(error) => fail(&format!("could not start cargo to build the agent: {error}")),
    }
    target_dir.join(target).join("agent").join("fastbuild-agent")
}

/// Beside the outer build's own directory, so that debug and release share one agent.
fn target_dir() -> PathBuf {
    let out = PathBuf::from(variable("OUT_DIR"));
    let outer = out.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).map(Path::to_owned);
    outer.unwrap_or(out).join("agent-target")
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| fail(&format!("cargo did not say {name}: {error}")))
}

fn fail(why: &str) -> ! {
    for line in why.lines() {
        println!("cargo::error={line}");
    }
    exit(1)
}
