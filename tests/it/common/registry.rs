//! A registry of the test's own, on a loopback port (which engines trust without TLS), and images that only it has.

use std::{
    fs,
    io::BufReader,
    path::Path,
    process::{Child, Command, Stdio},
};

use super::{BUSYBOX, docker, process::noise};

/// Who may use a registry with [`Registry::for_members`], and what `docker login` would keep of it: base64 of
/// `USER:PASSWORD`.
pub struct Member {
    /// A line of the registry's own file.
    pub htpasswd: &'static str,
    /// The `auth` of Docker's configuration.
    pub auth: &'static str,
}

/// `tester`, `secret`.
pub const MEMBER: Member = Member {
    htpasswd: "tester:$2b$04$4SWzt.35hMnIWxZwDRpn3OnJiqO6/yjYCKMTyqR6ZFEpvRitHMT9e",
    auth: "dGVzdGVyOnNlY3JldA==",
};

/// The same user with the password `wrong`.
pub const WRONG: Member = Member { htpasswd: "", auth: "dGVzdGVyOndyb25n" };

/// `odd`, `a?>~??~~>>x?>~`: wherever in a base64 text they come to lie, some of these become `+` and `/`.
pub const ODD_MEMBER: Member = Member {
    htpasswd: "odd:$2b$04$wDOq0F4UtCg.7DrEzrMgcOItopzk64sh97IP/hMSUrO/8aCuAvuBe",
    auth: "b2RkOmE/Pn4/P35+Pj54Pz5+",
};

/// A registry process, gone when dropped.
pub struct Registry {
    process: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
    dir: tempfile::TempDir,
}

impl Registry {
    /// Gives its images to all users.
    pub fn for_all() -> Registry {
        Registry::start("")
    }

    /// Gives its images to [`MEMBER`] and [`ODD_MEMBER`].
    pub fn for_members() -> Registry {
        Registry::start("auth: {htpasswd: {realm: test, path: htpasswd}}\n")
    }

    fn start(auth: &str) -> Registry {
        let dir = tempfile::Builder::new().prefix("fastbuild-test-registry-").tempdir().unwrap();
        let config = format!(
            "version: 0.1\n\
             log: {{level: info, formatter: text, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: storage}}, maintenance: {{uploadpurging: {{enabled: false}}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n{auth}"
        );
        fs::write(dir.path().join("config.yml"), config).unwrap();
        fs::write(dir.path().join("htpasswd"), [MEMBER.htpasswd, ODD_MEMBER.htpasswd].join("\n")).unwrap();
        let mut process = Command::new("docker-registry")
            .args(["serve", "config.yml"])
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry (`cargo xtask test` installs it)");
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let address = address_in(&mut log);
        // A registry whose log is not read would come to a halt.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Registry { process, address, dir }
    }

    /// Pushes an image as `NAME:1` that prints `content` for `cat /what`, and leaves it on the engine under that name.
    pub fn publish(&self, name: &str, content: &str) -> Published {
        let reference = format!("{}/{name}:1", self.address);
        let layer = self.dir.path().join("layer");
        fs::create_dir_all(&layer).unwrap();
        fs::write(layer.join("what"), content).unwrap();
        // Another one each time: a layer that the engine has already would not travel.
        let seed = self
            .address
            .bytes()
            .chain(content.bytes())
            .fold(7, |seed, b| seed * 31 % 1_000_003 + u64::from(b));
        fs::write(layer.join("noise"), noise(seed, 1 << 20)).unwrap();
        let container = docker(&["create", BUSYBOX, "true"]).trim().to_owned();
        docker(&["cp", &format!("{}/.", layer.to_str().unwrap()), &format!("{container}:/")]);
        let id = docker(&["commit", &container, &reference]).trim().to_owned();
        docker(&["rm", &container]);
        let published = Published { reference, id };
        self.log_in(&self.dir.path().join("docker"), &MEMBER);
        docker(&["--config", self.dir.path().join("docker").to_str().unwrap(), "push", &published.reference]);
        published
    }

    /// Writes what `docker login` writes into a configuration directory.
    pub fn log_in(&self, config_dir: &Path, member: &Member) {
        let auths = serde_json::json!({"auths": {&self.address: {"auth": member.auth}}});
        fs::create_dir_all(config_dir).unwrap();
        fs::write(config_dir.join("config.json"), auths.to_string()).unwrap();
    }

    /// Ends the process; the port answers no more.
    pub fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn address_in(log: &mut impl std::io::BufRead) -> String {
    let mut said = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(log.read_line(&mut line).unwrap(), 0, "the registry does not listen: {said}");
        if let Some((_, address)) = line.split_once("listening on ") {
            let is_of_address = |c: &char| c.is_ascii_digit() || matches!(c, '.' | ':');
            return address.chars().take_while(is_of_address).collect();
        }
        said += &line;
    }
}

/// An image in a registry. Its copies on the engine are gone when it is dropped.
pub struct Published {
    /// `ADDRESS/NAME:1`.
    pub reference: String,
    /// Its id, which is the same wherever it is.
    pub id: String,
}

impl Published {
    /// Takes it off the engine: only the registry has it then.
    pub fn take_off_engine(&self) {
        docker(&["rmi", "--force", &self.id]);
        assert!(!self.is_on_engine());
    }

    /// Whether the engine has it under its name.
    pub fn is_on_engine(&self) -> bool {
        let output = Command::new("docker").args(["image", "inspect", &self.reference]).output().unwrap();
        output.status.success()
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "--force", &self.reference, &self.id]).output();
    }
}
