//! The page of `fastbuild bench --html` in a real browser: what it asks for, how it looks on a telephone and by night, and
//! what becomes of hostile texts. The report is the example of `docs/bench-json.md`.

#![cfg(unix)]

use std::path::PathBuf;

use fastbuild::bench::{Measured, Report, Samples, html};
use serde_json::Value;
use testutils::chromium::Chromium;

/// Every element that shows a text of its own: its text, colour, the colour behind it, the size of its letters, its edges.
const TEXTS: &str = r"
(() => {
    const seen = (element) => element.checkVisibility() && element.getBoundingClientRect().width > 0;
    const own = (element) => [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            if (colour !== 'rgba(0, 0, 0, 0)') return colour;
        }
        return 'none';
    };
    document.querySelectorAll('details').forEach((d) => { d.open = true; });
    return [...document.body.querySelectorAll('*')].filter((e) => own(e) && seen(e)).map((e) => {
        const style = getComputedStyle(e), box = e.getBoundingClientRect();
        return {
            text: e.textContent, colour: e.closest('svg') ? style.fill : style.color, behind: behind(e),
            size: parseFloat(style.fontSize), left: box.left, right: box.right,
        };
    });
})()";

fn example() -> Report {
    let document =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bench-json.md")).unwrap();
    let json = document.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    serde_json::from_str(json).unwrap()
}

/// The worst that users, containers and engines can say, a word that is wider than any telephone, and a build that takes a
/// day.
fn hostile() -> Report {
    let text =
        format!("<script>document.title='no'</script>\"><img src=x onerror=alert(1)>{}", "w".repeat(500));
    let mut report = example();
    report.command = Some(vec![text.clone()]);
    for field in
        [&mut report.machine, &mut report.engine, &mut report.fastbuild, &mut report.source.file_system]
    {
        field.clone_from(&text);
    }
    report.disk[2].result = Measured::Failed { why: text.clone() };
    report.routes[1].result = Measured::NotOffered { why: text };
    report.routes[3].result = Measured::Done(Samples(vec![86_400.1, 90_000.2, 99_999.3]));
    report.routes[3].first = Some(123_456.7);
    report
}

/// A page in a directory of its own, open in a browser of its own.
struct Opened {
    browser: Chromium,
    url: String,
    _directory: tempfile::TempDir,
}

fn open(html: &str) -> Opened {
    let directory = tempfile::tempdir().unwrap();
    let file: PathBuf = directory.path().join("page.html");
    std::fs::write(&file, html).unwrap();
    let mut browser = Chromium::start().unwrap();
    browser.open(&file).unwrap();
    Opened { browser, url: format!("file://{}", file.to_str().unwrap()), _directory: directory }
}

impl Opened {
    /// Everything that the page asked for, itself included.
    fn requests(&self) -> Vec<String> {
        let events = self.browser.events("Network.requestWillBeSent");
        events.iter().map(|event| event["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    /// Everything that a developer would see in the console.
    fn console(&self) -> Vec<&Value> {
        ["Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"]
            .iter()
            .flat_map(|method| self.browser.events(method))
            .collect()
    }

    fn texts(&mut self) -> Vec<Value> {
        let texts = self.browser.evaluate(TEXTS).unwrap().as_array().unwrap().clone();
        assert!(texts.len() > 50, "{texts:?}");
        texts
    }
}

#[test]
fn the_page_asks_for_nothing_and_the_console_stays_empty() {
    for report in [example(), hostile()] {
        let mut page = open(&html::render(&report));
        page.browser.resize(360, 800).unwrap();
        page.browser.prefer("dark").unwrap();
        page.texts();
        assert_eq!(page.requests(), [page.url.clone()]);
        assert_eq!(page.console(), Vec::<&Value>::new());
    }
}

/// The test above is worth something only if it would see what it forbids.
#[test]
fn a_page_that_asks_for_something_or_complains_is_seen() {
    let page = open(
        "<!doctype html><title>x</title><img src='missing.png'><script>console.error('x'); y()</script>",
    );
    assert!(page.requests().iter().any(|url| url.ends_with("/missing.png")), "{:?}", page.requests());
    for method in ["Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"] {
        assert_eq!(page.browser.events(method).len(), 1, "{method}");
    }
}

#[test]
fn texts_from_outside_are_shown_and_do_nothing() {
    let mut page = open(&html::render(&hostile()));
    assert_eq!(page.browser.evaluate("document.querySelectorAll('script, img').length").unwrap(), 0);
    assert_ne!(page.browser.evaluate("document.title").unwrap(), "no");
    let shown = page.browser.evaluate("document.body.innerText").unwrap();
    // The command twice, four facts, a place and a route that have nothing.
    assert_eq!(shown.as_str().unwrap().matches("<img src=x onerror=alert(1)>").count(), 8, "{shown}");
}

#[test]
fn both_colour_schemes_can_be_read() {
    let mut page = open(&html::render(&example()));
    let mut backgrounds = Vec::new();
    for scheme in ["light", "dark"] {
        page.browser.prefer(scheme).unwrap();
        for text in page.texts() {
            let contrast = contrast(&text["colour"], &text["behind"]);
            assert!(contrast >= 4.5, "{scheme}: {contrast:.2} for {text}");
        }
        backgrounds.push(page.browser.evaluate("getComputedStyle(document.body).backgroundColor").unwrap());
    }
    assert!(luminance(&backgrounds[0]) > 0.8 && luminance(&backgrounds[1]) < 0.1, "{backgrounds:?}");
}

/// As WCAG 2 defines it: 1 for the same colour, 21 for black on white.
fn contrast(one: &Value, other: &Value) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

/// Of `rgb(R, G, B)`: from 0 to 1.
fn luminance(colour: &Value) -> f64 {
    let colour = colour.as_str().unwrap();
    let inner = colour.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')'));
    let channels: Vec<f64> = inner
        .unwrap_or_else(|| panic!("{colour} is not opaque"))
        .split(", ")
        .map(|channel| channel.parse::<f64>().unwrap() / 255.0)
        .map(|c| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) })
        .collect();
    channels.iter().zip([0.2126, 0.7152, 0.0722]).map(|(channel, weight)| channel * weight).sum()
}

#[test]
fn a_telephone_shows_all_of_it_without_scrolling_sideways_in_letters_that_can_be_read() {
    for report in [example(), hostile()] {
        let mut page = open(&html::render(&report));
        page.browser.resize(360, 800).unwrap();
        for text in page.texts() {
            let edge = |edge: &str| text[edge].as_f64().unwrap();
            assert!(edge("size") >= 14.0, "{text}");
            assert!(edge("left") >= 0.0 && edge("right") <= 360.0, "{text}");
        }
        let width = page.browser.evaluate("document.scrollingElement.scrollWidth").unwrap();
        assert!(width.as_f64().unwrap() <= 360.0, "{width}");
    }
}

#[test]
fn labels_in_pictures_do_not_run_into_each_other() {
    let mut page = open(&html::render(&example()));
    for (width, height) in [(360, 800), (600, 800), (960, 800), (1280, 800)] {
        page.browser.resize(width, height).unwrap();
        let overlaps = page.browser.evaluate(
            "[...document.querySelectorAll('svg g')].filter((g) => {
                const [name, value] = [...g.querySelectorAll('text')].map((t) => t.getBoundingClientRect());
                return name.right + 4 > value.left;
            }).map((g) => g.textContent)",
        );
        assert_eq!(overlaps.unwrap(), serde_json::json!([]), "{width}");
    }
}

#[test]
fn who_cannot_see_the_pictures_is_told_their_figures() {
    let mut page = open(&html::render(&example()));
    let tree = page.browser.call("Accessibility.getFullAXTree", serde_json::json!({})).unwrap();
    let images: Vec<&str> = tree["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|node| node["role"]["value"] == "image")
        .map(|node| node["name"]["value"].as_str().unwrap())
        .collect();
    assert_eq!(images.len(), 9, "{images:?}");
    assert!(
        images[0].starts_with(
            "The command on each route Median seconds, with least and most: layer 2.94 (2.88 – 3.12);"
        ),
        "{images:?}"
    );
    assert!(images.iter().all(|name| name.contains("layer ")), "{images:?}");
}
