//! The virtual disk service: who asked, may they, and what is open?
//!
//! A library, so that tests and documents reach its rooms, with a thin program on top. The
//! broker ([`serve`], [`session`], [`engine`], [`verb`]) has the rights and never looks at an
//! image byte; a worker ([`worker`], [`sandbox`]) has one image and no rights. They talk in the
//! words of [`question`] over [`packet`].
#![forbid(unsafe_code)]

pub mod adopt;
pub mod attachment;
pub mod caller;
pub mod chain;
pub mod code_map;
pub mod engine;
pub mod entry;
pub mod failure;
pub mod handle;
pub mod limited;
pub mod log;
pub mod make;
pub mod packet;
pub mod parents;
pub mod provider;
pub mod question;
pub mod record;
pub mod resolve;
pub mod sandbox;
pub mod security;
pub mod serve;
pub mod session;
pub mod verb;
pub mod worker;
pub mod worker_link;
