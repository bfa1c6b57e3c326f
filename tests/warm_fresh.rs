//! The promises about products, kept in a workspace that starts over for each build, for these tests' commands make their
//! products from nothing.

#[path = "outputs.rs"]
mod outputs;
