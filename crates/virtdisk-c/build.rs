//! Linking of `libvirtdisk.so`: its soname, and that it is never unloaded.
//!
//! The soname's number counts incompatible changes of the C ABI. The library may have a thread
//! that waits for the service's process, so `dlclose` must leave its code in place.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libvirtdisk.so.0");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
