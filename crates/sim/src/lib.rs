//! A simulated world for the kernel: random commands, fault plans, checkers.

pub mod behaviour;
pub mod commands;
pub mod random;
pub mod replica;
