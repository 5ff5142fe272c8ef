//! Compiles `cpp/kernels.cpp` once for each level of the instruction set; `src/lib.rs` picks one at run time. And the
//! GPU's kernels for this CPU, once for each number format and width, which tests run.

fn main() {
    println!("cargo:rerun-if-changed=cpp");
    println!("cargo:rerun-if-changed=device");
    let levels: &[(&str, &str)] = if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        &[("base", "x86-64"), ("v3", "x86-64-v3"), ("v4", "x86-64-v4")]
    } else {
        &[("base", "")]
    };
    for (level, machine) in levels {
        let mut build = cc::Build::new();
        build
            .cpp(true)
            .std("c++17")
            .opt_level(3)
            .warnings(true)
            .flag("-fopenmp")
            .flag("-fno-math-errno")
            .define("LEVEL", *level);
        // Whole vectors are passed between inlined functions only, so their calling convention does not matter.
        build.flag("-Wno-psabi");
        if !machine.is_empty() {
            build.flag(format!("-march={machine}"));
        }
        build.file("cpp/kernels.cpp").compile(&format!("senmon_kernels_{level}"));
    }
    for (name, bf16, pack) in [("bf16_8", "1", "8"), ("bf16_1", "1", "1"), ("fp32_8", "0", "8"), ("fp32_1", "0", "1")] {
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").opt_level(2).warnings(true).flag("-pthread");
        build.define("NUMBER_BF16", bf16).define("PACK", pack).define("NORM_PACKS", "32").define("VARIANT", name);
        build.file("device/host.cpp").compile(&format!("senmon_device_{name}"));
    }
    // The same libgomp that libtorch loads: one pool of threads in the process.
    println!("cargo:rustc-link-lib=gomp");
}
