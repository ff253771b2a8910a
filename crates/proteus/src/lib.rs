//! Proteus as a library: configuration, the server, the demo. The binary is a thin shell around it.
//!
//! This is the only crate that knows every face; nothing imports it.
//!
//! Reading order: [`cli`], [`config`], [`server`], [`demo`].

mod backup;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod demo;
mod doctor;
mod progress;
mod redis;
pub mod server;
mod topic;
mod zk;
