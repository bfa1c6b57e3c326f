//! `cargo xtask picture REPORT.json`: a report of `fastbuild bench --json` -> its page -> `docs/bench-page-light.png` and
//! `-dark.png`.
//!
//! Only a report that was measured belongs into the docs.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use serde_json::json;

use testutils::chromium::Chromium;

use crate::{
    debian,
    run::{self, cargo, note, root, say, scratch_dir},
};

/// Pixels: as wide as a page of the docs is shown.
const WIDTH: u32 = 880;
/// The limit of a picture's size, in bytes: every reader of the docs downloads it.
const MOST: usize = 150_000;
/// As many as a palette of PNG holds.
const COLOURS: usize = 256;

#[derive(clap::Args)]
pub struct Options {
    /// What `fastbuild bench --json` wrote
    report: PathBuf,
    /// The directory for the pictures [default: docs]
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

/// Both pictures.
pub fn run(options: &Options) -> Result<()> {
    debian::ensure_program("chromium", "chromium")?;
    let page = scratch_dir()?.join("bench-page.html");
    say(format_args!("the page of {:?}", options.report));
    render(&options.report, &page)?;
    let to = options.to.clone().unwrap_or_else(|| root().join("docs"));
    for scheme in ["light", "dark"] {
        let picture = small(&photograph(&page, scheme)?)?;
        let file = to.join(format!("bench-page-{scheme}.png"));
        ensure!(picture.len() <= MOST, "{file:?} would have {} bytes, and {MOST} is the most", picture.len());
        run::write_whole(&file, &picture)?;
        note(format_args!("{file:?}: {} bytes", picture.len()));
    }
    Ok(())
}

fn render(report: &Path, page: &Path) -> Result<()> {
    let mut example = cargo();
    example.args(["run", "--quiet", "--package", "fastbuild", "--example", "bench_page"]);
    example.stdin(fs_err::File::open(report)?.into_parts().0).stdout(Stdio::piped());
    let output = example.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "{report:?} is no report of `fastbuild bench --json`");
    run::write_whole(page, &output.stdout)
}

/// The whole page, as PNG.
fn photograph(page: &Path, scheme: &str) -> Result<Vec<u8>> {
    let mut browser = Chromium::start()?;
    browser.resize(WIDTH, 800)?;
    browser.prefer(scheme)?;
    browser.open(page)?;
    let height = browser.evaluate("Math.ceil(document.documentElement.getBoundingClientRect().height)")?;
    let height = height.as_u64().context("a page without a height")?;
    browser.resize(WIDTH, u32::try_from(height)?)?;
    let shot = browser.call("Page.captureScreenshot", json!({ "format": "png" }))?;
    let data = shot["data"].as_str().context("no picture")?;
    Ok(base64::engine::general_purpose::STANDARD.decode(data)?)
}

/// The same picture with a palette. The page has few colours and the edges of letters have many; those that are rare become
/// the nearest that is not.
fn small(picture: &[u8]) -> Result<Vec<u8>> {
    let mut reader = png::Decoder::new(std::io::Cursor::new(picture)).read_info()?;
    let mut pixels = vec![0; reader.output_buffer_size().context("a picture of no size")?];
    let frame = reader.next_frame(&mut pixels)?;
    ensure!(frame.bit_depth == png::BitDepth::Eight, "{:?}", frame.bit_depth);
    let pixels: Vec<[u8; 3]> =
        pixels.chunks_exact(frame.color_type.samples()).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    let (palette, indices) = reduce(&pixels);
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, frame.width, frame.height);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette(palette.concat());
    encoder.set_compression(png::Compression::High);
    encoder.set_filter(png::Filter::NoFilter);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&indices)?;
    writer.finish()?;
    Ok(out)
}

/// The palette, and for each pixel its place in there.
fn reduce(pixels: &[[u8; 3]]) -> (Vec<[u8; 3]>, Vec<u8>) {
    let mut counts: HashMap<[u8; 3], usize> = HashMap::new();
    pixels.iter().for_each(|pixel| *counts.entry(*pixel).or_default() += 1);
    let mut palette: Vec<[u8; 3]> = counts.keys().copied().collect();
    palette.sort_by_key(|colour| (std::cmp::Reverse(counts[colour]), *colour));
    palette.truncate(COLOURS);
    let distance = |one: &[u8; 3], other: &[u8; 3]| -> u32 {
        one.iter().zip(other).map(|(a, b)| u32::from(a.abs_diff(*b)).pow(2)).sum()
    };
    let nearest = |colour: &[u8; 3]| {
        let places = (0u8..=u8::MAX).zip(&palette);
        places.min_by_key(|(_, in_palette)| distance(colour, in_palette)).map_or(0, |(at, _)| at)
    };
    let places: HashMap<[u8; 3], u8> = counts.keys().map(|colour| (*colour, nearest(colour))).collect();
    (palette, pixels.iter().map(|pixel| places[pixel]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_colours_stay_as_they_are_and_rare_ones_become_their_neighbours() {
        let (red, green) = ([255, 0, 0], [0, 255, 0]);
        assert_eq!(reduce(&[red, green, red]), (vec![red, green], vec![0, 1, 0]));
        let greys = (0..=255).flat_map(|grey| [[grey, grey, grey]; 2]);
        let pixels: Vec<[u8; 3]> = greys.chain([[200, 201, 200]]).collect();
        let (palette, indices) = reduce(&pixels);
        assert_eq!(palette.len(), COLOURS);
        assert_eq!(palette[usize::from(indices[512])], [200, 200, 200]);
    }
}
