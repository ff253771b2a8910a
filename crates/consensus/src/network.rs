//! The library's messages to other nodes.
//!
//! A message is one byte of format version and a `postcard` encoding of [`Message`]; an answer
//! likewise of [`Answer`]. Which group it is for, the transport's owner knows. A log snapshot goes as many messages: chunks of the image in the order of
//! their keys, then its end, with what it is an image of.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft::AnyError;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf, VoteOf};
use proteus_env::task;
use proteus_types::{Member, NodeId};
use serde::{Deserialize, Serialize};

use crate::config::{TypeConfig, from_bytes};
use crate::replica::{SnapshotHandle, SnapshotPace};
use crate::transport::{Transport, TransportError};

/// First byte of a message and of an answer.
const FORMAT_VERSION: u8 = 1;

/// How long one chunk of a log snapshot may take to be answered.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(20);

/// How long the receiver may take to put a whole log snapshot in place of its state.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(120);

/// What one node says to another.
#[derive(Serialize, Deserialize)]
pub(crate) enum Message {
    Append(AppendEntriesRequest<TypeConfig>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    TransferLeader(TransferLeaderRequest<TypeConfig>),
    /// Part `sequence` (from 0) of the image in `transfer`, which the sender numbers.
    SnapshotChunk {
        transfer: u64,
        sequence: u64,
        bytes: Bytes,
    },
    SnapshotEnd {
        transfer: u64,
        chunk_count: u64,
        vote: VoteOf<TypeConfig>,
        meta: SnapshotMetaOf<TypeConfig>,
    },
    /// Asks the leader up to which entry a reader must have applied; see [`crate::Group::read_index`].
    ReadIndex,
}

/// What it is answered.
#[derive(Serialize, Deserialize)]
pub(crate) enum Answer {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    TransferLeader(TransferLeaderResponse<TypeConfig>),
    ChunkTaken,
    SnapshotInstalled(SnapshotResponse<TypeConfig>),
    ReadIndex(u64),
    Refused(String),
}

pub(crate) fn encode<T: Serialize>(value: &T) -> io::Result<Bytes> {
    postcard::to_extend(value, vec![FORMAT_VERSION]).map(Bytes::from).map_err(io::Error::other)
}

pub(crate) fn decode<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> io::Result<T> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    match bytes {
        [FORMAT_VERSION, rest @ ..] => from_bytes(rest),
        [version, ..] => Err(invalid(format!(
            "a message of format version {version}, but this binary speaks {FORMAT_VERSION}"
        ))),
        [] => Err(invalid("an empty message".to_owned())),
    }
}

/// Makes clients for the library.
pub(crate) struct Peers {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) pace: Arc<SnapshotPace>,
    pub(crate) transfers: Arc<AtomicU64>,
}

impl RaftNetworkFactory<TypeConfig> for Peers {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, member: &Member) -> Peer {
        Peer {
            to: NodeId(target),
            member: member.clone(),
            transport: self.transport.clone(),
            pace: self.pace.clone(),
            transfers: self.transfers.clone(),
        }
    }
}

/// One node as the library speaks to it.
pub(crate) struct Peer {
    to: NodeId,
    member: Member,
    transport: Arc<dyn Transport>,
    pace: Arc<SnapshotPace>,
    transfers: Arc<AtomicU64>,
}

impl Peer {
    async fn call(&self, message: &Message, timeout: Duration) -> Result<Answer, TransportError> {
        call(&*self.transport, self.to, &self.member, message, timeout).await
    }

    async fn rpc(
        &self,
        message: &Message,
        action: RPCTypes,
        option: &RPCOption,
    ) -> Result<Answer, RPCError<TypeConfig>> {
        let timeout = option.hard_ttl();
        match self.call(message, timeout).await {
            // A node whose group has stopped refuses at once; without a pause it would be asked at once.
            Ok(Answer::Refused(reason)) => Err(RPCError::Unreachable(unreachable_error(reason))),
            Ok(answer) => Ok(answer),
            Err(TransportError::Unreachable(reason)) if reason == TIMED_OUT => {
                let target = self.to.0;
                Err(RPCError::Timeout(Timeout { action, id: target, target, timeout }))
            }
            Err(error) => Err(RPCError::Unreachable(unreachable_error(error.to_string()))),
        }
    }

    async fn send_snapshot(
        &self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotHandle>,
    ) -> Result<SnapshotResponse<TypeConfig>, TransportError> {
        let refused = |error: io::Error| TransportError::Refused(error.to_string());
        let transfer = self.transfers.fetch_add(1, Ordering::Relaxed);
        let SnapshotHandle::Outgoing(mut image) = snapshot.snapshot else {
            return Err(TransportError::Refused("this node has no image to send".to_owned()));
        };
        if !image.may_leave() {
            return Err(TransportError::Refused("too few replicas have compared it".to_owned()));
        }
        let mut sequence = 0;
        loop {
            let (returned, chunk) = task::spawn_blocking(move || {
                let chunk = image.next_chunk();
                (image, chunk)
            })
            .await
            .map_err(|error| TransportError::Refused(error.to_string()))?;
            image = returned;
            let chunk = chunk.map_err(|fault| TransportError::Refused(fault.to_string()))?;
            let Some(bytes) = chunk else { break };
            self.pace.pass(bytes.len()).await;
            let message = Message::SnapshotChunk { transfer, sequence, bytes };
            expect_taken(self.call(&message, CHUNK_TIMEOUT).await?)?;
            sequence += 1;
        }
        let message =
            Message::SnapshotEnd { transfer, chunk_count: sequence, vote, meta: snapshot.meta };
        match self.call(&message, INSTALL_TIMEOUT).await? {
            Answer::SnapshotInstalled(response) => Ok(response),
            Answer::Refused(reason) => Err(TransportError::Refused(reason)),
            _ => Err(refused(unexpected())),
        }
    }
}

/// What a call says that was not answered in time.
const TIMED_OUT: &str = "no answer in time";

/// Sends a message and waits for its answer.
pub(crate) async fn call(
    transport: &dyn Transport,
    to: NodeId,
    member: &Member,
    message: &Message,
    timeout: Duration,
) -> Result<Answer, TransportError> {
    let refused = |error: io::Error| TransportError::Refused(error.to_string());
    let bytes = encode(message).map_err(refused)?;
    let answer = task::timeout(timeout, transport.call(to, member, bytes)).await;
    let answer = answer.ok_or_else(|| TransportError::Unreachable(TIMED_OUT.to_owned()))??;
    decode(&answer).map_err(refused)
}

fn expect_taken(answer: Answer) -> Result<(), TransportError> {
    match answer {
        Answer::ChunkTaken => Ok(()),
        Answer::Refused(reason) => Err(TransportError::Refused(reason)),
        _ => Err(TransportError::Refused(unexpected().to_string())),
    }
}

fn unexpected() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer to another question")
}

fn unreachable_error(reason: String) -> Unreachable<TypeConfig> {
    Unreachable::new(&AnyError::error(reason))
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.rpc(&Message::Append(request), RPCTypes::AppendEntries, &option).await? {
            Answer::Append(response) => Ok(response),
            _ => Err(RPCError::Unreachable(unreachable_error(unexpected().to_string()))),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.rpc(&Message::Vote(request), RPCTypes::Vote, &option).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(RPCError::Unreachable(unreachable_error(unexpected().to_string()))),
        }
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.rpc(&Message::PreVote(request), RPCTypes::Vote, &option).await? {
            Answer::Vote(response) => Ok(response),
            _ => Err(RPCError::Unreachable(unreachable_error(unexpected().to_string()))),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotHandle>,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => sent.map_err(|error| {
                StreamingError::Unreachable(unreachable_error(error.to_string()))
            }),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        match self.rpc(&Message::TransferLeader(request), RPCTypes::TransferLeader, &option).await?
        {
            Answer::TransferLeader(response) => Ok(response),
            _ => Err(RPCError::Unreachable(unreachable_error(unexpected().to_string()))),
        }
    }
}
