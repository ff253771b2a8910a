//! The whole product: real processes, real sockets, third-party clients.
#![allow(clippy::disallowed_methods, reason = "tests stand outside the door that proteus-env is")]

mod backup;
mod cluster;
mod crash;
mod damage;
mod demo;
mod derived;
mod feed;
mod follower_reads;
mod full_disk;
mod garbage;
mod netns;
mod node;
mod redis_files;
mod room;
mod room_clients;
mod s3;
mod shards;
mod start;
mod topic;
mod zk;
