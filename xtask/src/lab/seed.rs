//! The figures that the project began with: what others measured on their machines, as they published it. They are what the
//! laboratory's own are put beside; nothing here is measured by this program.

/// A figure of the seed.
pub struct Theirs {
    /// On which machine, in which setting.
    pub setting: &'static str,
    /// What was done.
    pub what: &'static str,
    /// What came of it.
    pub result: &'static str,
}

/// LAB 1: `jekyll build` of one site, by where the source and the destination lay.
pub const JEKYLL: [Theirs; 5] = [
    Theirs { setting: "LCOW, Windows 10", what: "container → container", result: "12.86 s" },
    Theirs { setting: "LCOW, Windows 10", what: "volume → container", result: "135.49 s" },
    Theirs {
        setting: "LCOW, Windows 10",
        what: "volume → volume",
        result: "failed after 68 – 70 s, at random: `Operation not permitted @ apply2files`",
    },
    Theirs { setting: "Docker for Windows", what: "volume → volume", result: "120 s" },
    Theirs {
        setting: "WSL2, the author's blog",
        what: "files moved away from `/mnt/c`",
        result: "18 times as fast",
    },
];

/// `dd` of 1 GB, by where it was written.
pub const DISK: [Theirs; 6] = [
    Theirs {
        setting: "Windows Server 1803, bare metal",
        what: "process isolation → container",
        result: "1.57 s",
    },
    Theirs {
        setting: "Windows Server 1803, bare metal",
        what: "Hyper-V isolation → container",
        result: "5.90 s",
    },
    Theirs { setting: "Windows 10 Pro", what: "LCOW → volume", result: "41.14 s (elsewhere 21 s)" },
    Theirs { setting: "Docker for Windows", what: "volume", result: "9.10 s" },
    Theirs { setting: "Azure DS4v3, nested", what: "Hyper-V isolation → container", result: "66.82 s" },
    Theirs { setting: "Azure DS4v3, nested", what: "Hyper-V isolation → volume", result: "3.39 s" },
];
