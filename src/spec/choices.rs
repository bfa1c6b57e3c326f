//! Names -> values, for settings with few values. Flags, variables and the file share one table.

use crate::spec::{EngineChoice, Isolation, Progress, PullPolicy, Route, RouteChoice, units::BadValue};

/// A setting whose value is one of a few names.
pub trait Choice: Copy + 'static {
    /// Every name, in the order in which errors list them.
    const CHOICES: &'static [(&'static str, Self)];
}

impl Choice for PullPolicy {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("missing", PullPolicy::Missing), ("always", PullPolicy::Always), ("never", PullPolicy::Never)];
}

impl Choice for Isolation {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("process", Isolation::Process), ("hyperv", Isolation::Hyperv)];
}

impl Choice for EngineChoice {
    const CHOICES: &'static [(&'static str, Self)] =
        &[("auto", EngineChoice::Auto), ("docker", EngineChoice::Docker), ("host", EngineChoice::Host)];
}

impl Choice for RouteChoice {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", RouteChoice::Auto),
        (Route::Layer.name(), RouteChoice::Fixed(Route::Layer)),
        (Route::Tmpfs.name(), RouteChoice::Fixed(Route::Tmpfs)),
        (Route::Volume.name(), RouteChoice::Fixed(Route::Volume)),
        (Route::MountSource.name(), RouteChoice::Fixed(Route::MountSource)),
        (Route::Mount.name(), RouteChoice::Fixed(Route::Mount)),
        (Route::Host.name(), RouteChoice::Fixed(Route::Host)),
    ];
}

impl Choice for Progress {
    const CHOICES: &'static [(&'static str, Self)] = &[
        ("auto", Progress::Auto),
        ("bar", Progress::Bar),
        ("plain", Progress::Plain),
        ("json", Progress::Json),
        ("none", Progress::None),
    ];
}

/// The value with that name.
///
/// # Errors
/// [`BadValue::Choice`], with all names and the nearest one.
pub fn choose<T: Choice>(given: &str) -> Result<T, BadValue> {
    let names = || T::CHOICES.iter().map(|(name, _)| *name);
    T::CHOICES.iter().find(|(name, _)| *name == given).map(|(_, value)| *value).ok_or_else(|| {
        BadValue::Choice {
            given: given.to_owned(),
            choices: names().collect::<Vec<_>>().join(", "),
            nearest: nearest(given, names()),
        }
    })
}

/// The name as it is typed. Every value has a name.
pub fn name_of<T: Choice + PartialEq>(value: T) -> &'static str {
    T::CHOICES.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}

/// The candidate that was probably meant: at most a third of its letters differ, or two if short.
pub(crate) fn nearest(
    word: &str,
    candidates: impl IntoIterator<Item = &'static str>,
) -> Option<&'static str> {
    let word = word.to_lowercase();
    let ranked = candidates.into_iter().map(|name| (strsim::damerau_levenshtein(&word, name), name));
    let (distance, name) = ranked.min_by_key(|(distance, _)| *distance)?;
    (distance <= (name.len() / 3).max(2) && distance < name.len()).then_some(name)
}
