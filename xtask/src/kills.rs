//! `cargo xtask kills`: builds that are killed at random (`tests/it/kills.rs`), as many rounds as are asked for; with them the engine,
//! which is one of their own.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    debian,
    engine::{self, Engine, Starting},
    images,
    run::{self, cargo, found, note, say},
};

/// What `kills` takes.
#[derive(Debug, Args)]
pub struct Options {
    /// How many times one or two builds are killed, and another one has to be right
    #[arg(long, default_value_t = 300)]
    rounds: u64,
    /// The sequence to go through; another one each time unless it is given
    #[arg(long)]
    seed: Option<u64>,
}

/// Runs it; a failure names the seed and the round.
pub async fn run(options: Options) -> Result<()> {
    let mut engine = engine::ensure().await?;
    let own = if debian::is_root() && ["dockerd", "setpriv", "unshare"].into_iter().all(found) {
        let mut own = Own::start()?;
        engine = own.answers().await?;
        Some(own)
    } else {
        note("the engine is not killed: only root may start one for that, by dockerd, setpriv and unshare");
        None
    };
    images::ensure(&engine, &images::TEST_BUSYBOX).await?;
    let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = options.seed.unwrap_or_else(drawn).to_string();
    let rounds = options.rounds.to_string();
    say(format_args!("{rounds} rounds of builds that are killed; seed {seed}"));
    let mut kills = cargo();
    kills.args(["test", "--test", "it", "--", "kills::", "--nocapture"]);
    kills.env("FASTBUILD_KILLS_ROUNDS", rounds).env("FASTBUILD_KILLS_SEED", seed);
    kills.envs(own.as_ref().map(|own| ("FASTBUILD_KILLS_ENGINE", own.address())));
    run::run(engine.point(&mut kills))
}

/// A `dockerd` that may be killed: the machine's own may have other users. It has namespaces of its own (one of networks because of
/// `docker0`), and all that it writes is in memory: whichever way this program ends, nothing of it stays but an empty directory.
struct Own {
    dockerd: Starting,
    dir: tempfile::TempDir,
}

/// `sh -c` with the directory. It starts anew after a kill, and after nothing else.
const AGAIN_AND_AGAIN: &str = "mount -t tmpfs none /run && mount -t tmpfs none \"$1/data\" || exit; \
                               while dockerd --host \"unix://$1/docker.sock\" --data-root \"$1/data\" \
                               --cgroup-parent \"/${1##*/}\"; [ $? = 137 ]; do :; done";

impl Own {
    fn start() -> Result<Own> {
        // A short path, as that of a socket has to be.
        let dir = tempfile::Builder::new().prefix("fastbuild-kills-").tempdir()?;
        fs_err::create_dir(dir.path().join("data"))?;
        let log = run::scratch_dir()?.join("kills-dockerd.log");
        let out = fs_err::File::create(&log)?.into_file();
        say(format_args!("starting a dockerd to be killed, its log is {log:?}"));
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid", "--fork"]);
        command.args(["--kill-child", "--mount-proc", "sh", "-c", AGAIN_AND_AGAIN, "sh"]).arg(dir.path());
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().context("cannot start a second dockerd through setpriv")?;
        Ok(Own { dockerd: Starting { child, log }, dir })
    }

    fn address(&self) -> String {
        format!("unix://{}", self.dir.path().join("docker.sock").to_string_lossy())
    }

    async fn answers(&mut self) -> Result<Engine> {
        engine::wait(&self.address(), Some(&mut self.dockerd)).await
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        // With it, its namespaces and all that runs in them.
        self.dockerd.child.kill().ok();
        self.dockerd.child.wait().ok();
        // Who was killed between making a control group and a process in it forgets it.
        let Some(name) = self.dir.path().file_name() else { return };
        let below =
            |dir: &Path| fs_err::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let top = Path::new("/sys/fs/cgroup");
        for ours in below(top).chain([top.to_owned()]).map(|hierarchy| hierarchy.join(name)) {
            below(&ours).chain([ours.clone()]).for_each(|group| drop(fs_err::remove_dir(group)));
        }
    }
}
