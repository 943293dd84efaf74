//! Compiles `proto/` with a compiler written in Rust: no `protoc` is needed on any machine.
//!
//! Leaves two things in `OUT_DIR`: the generated code, and `drydock.bin`, the descriptors with their comments, which
//! reflection serves and the command line uses for JSON.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    // tonic-prost-build prints no such line for descriptors that it is given, and without any, cargo would rerun this
    // for each change in the whole package.
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");

    let root = Path::new("proto");
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();

    // Imports and source info are included.
    let descriptors = protox::compile(&files, [root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("drydock.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        .build_client(true)
        .build_server(true)
        .compile_well_known_types(false)
        // Output and files pass through in chunks; `Bytes` hands them on without a copy.
        .bytes(".")
        // Ordered maps make equal messages equal bytes, which request ids and page tokens compare.
        .btree_map(".")
        // Its environment may hold secrets: proto.rs prints it without them.
        .skip_debug(["drydock.v1.Command"])
        .compile_fds(descriptors)?;
    Ok(())
}

/// Adds every `.proto` file below `folder`.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
