//! Procedures over the tree machine. No ACL holds them back: whoever may call them may do everything.

use bytes::Bytes;
use proteus_kernel_api::tree::{Check, Credentials, NewNode, Op, Zxid};

use super::{Arguments, Calls, Function, Procedure};
use crate::error::SqlError;

pub(super) fn procedures() -> Vec<Box<dyn Procedure>> {
    let all = [
        Function { name: "zookeeper.create", parameters: "path, data", body: create },
        Function { name: "zookeeper.set", parameters: "path, data", body: set },
        Function { name: "zookeeper.delete", parameters: "path", body: delete },
        Function {
            name: "zookeeper.check_exists",
            parameters: "path [, czxid]",
            body: check_exists,
        },
        Function {
            name: "zookeeper.check_version",
            parameters: "path, version",
            body: check_version,
        },
    ];
    all.into_iter().map(|function| -> Box<dyn Procedure> { Box::new(function) }).collect()
}

fn create(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let path = arguments.text()?;
    let data = arguments.optional_bytes()?.map(Bytes::from);
    let what = format!("zookeeper.create('{path}')");
    calls.cross_face.op(Op::Create(NewNode::persistent(path, data)), what);
    Ok(())
}

fn set(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let path = arguments.text()?;
    let data = arguments.optional_bytes()?.map(Bytes::from);
    let what = format!("zookeeper.set('{path}')");
    calls.cross_face.op(Op::SetData { path, data, version: None, by: Credentials::TRUSTED }, what);
    Ok(())
}

fn delete(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let path = arguments.text()?;
    let what = format!("zookeeper.delete('{path}')");
    calls.cross_face.op(Op::Delete { path, version: None, by: Credentials::TRUSTED }, what);
    Ok(())
}

/// Holds if there is the znode; with its czxid, if it is the one created then. A worker that holds a
/// lock gives its lock znode's: if the lock was lost and taken by another, nothing commits.
fn check_exists(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let path = arguments.text()?;
    let czxid = if arguments.is_empty() { None } else { arguments.optional_int()?.map(Zxid) };
    let what = format!("zookeeper.check_exists('{path}')");
    calls.cross_face.check(Check::NodeExists { path, czxid, owner: None }, what);
    Ok(())
}

fn check_version(arguments: &mut Arguments<'_>, calls: &mut Calls<'_>) -> Result<(), SqlError> {
    let path = arguments.text()?;
    let version = i32::try_from(arguments.int()?)
        .map_err(|_| arguments.mismatch("the version is out of range"))?;
    let what = format!("zookeeper.check_version('{path}', {version})");
    calls.cross_face.check(Check::NodeVersion { path, version }, what);
    Ok(())
}
