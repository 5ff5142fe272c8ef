//! Builds again when the dashboard was built: its files are embedded.

fn main() {
    println!("cargo::rerun-if-changed=../web/dist");
    println!("cargo::rerun-if-changed=../migrations");
}
