//! The nodes of the cluster as Kafka's clients are told of them.
//!
//! Every node is a broker that produces and fetches for any partition; clients are sent to the node that
//! leads, which also coordinates groups and transactions: their members are soft state, and must meet in
//! one place.

use kafka_protocol::messages::BrokerId;
use kafka_protocol::protocol::StrBytes;
use proteus_kernel_api::{ClusterView, NodeId, topic};

use crate::session::Session;

/// One broker.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    pub(crate) id: BrokerId,
    pub(crate) host: StrBytes,
    pub(crate) port: i32,
}

/// All brokers.
#[derive(Debug, Clone)]
pub(crate) struct Brokers {
    pub(crate) all: Vec<Broker>,
    /// The one that leads every partition, if there is one now.
    leader: Option<BrokerId>,
    /// Which leadership it is.
    pub(crate) leader_epoch: i32,
}

/// Says of a leader: there is none.
const NO_LEADER: BrokerId = BrokerId(-1);

/// A node's number as a broker.
pub(crate) fn broker_id(node: NodeId) -> BrokerId {
    BrokerId(i32::try_from(node.0).unwrap_or(i32::MAX))
}

/// This node's broker.
pub(crate) fn this(session: &Session) -> BrokerId {
    broker_id(session.shared.kernel.cluster().node)
}

impl Brokers {
    /// The brokers as the session's client can reach them. This node is told of at the very address at
    /// which the client reached it, and others at theirs, with the same kind of listener.
    pub(crate) fn of(session: &Session) -> Brokers {
        let cluster = session.shared.kernel.cluster();
        let host = StrBytes::from_string(session.local.ip().to_canonical().to_string());
        let own_port = i32::from(session.local.port());
        let own = Broker { id: broker_id(cluster.node), host, port: own_port };
        let leader = cluster.leader.map(broker_id);
        let leader_epoch = topic::read::leader_epoch(cluster.term);
        let ClusterView { node, members, .. } = cluster;
        let Some(own_member) = members.get(&node) else {
            return Brokers { all: vec![own], leader, leader_epoch };
        };
        let standard_port = own_port - i32::from(own_member.port_offset);
        let all = members.iter().map(|(other, member)| {
            if *other == node {
                return own.clone();
            }
            Broker {
                id: broker_id(*other),
                host: StrBytes::from_string(member.client_host.clone()),
                port: standard_port + i32::from(member.port_offset),
            }
        });
        Brokers { all: all.collect(), leader, leader_epoch }
    }

    /// The broker that leads every partition; -1 if there is none now.
    pub(crate) fn leader_id(&self) -> BrokerId {
        self.leader.unwrap_or(NO_LEADER)
    }

    /// The broker that coordinates, if there is one now.
    pub(crate) fn coordinator(&self) -> Option<&Broker> {
        let leader = self.leader?;
        self.all.iter().find(|broker| broker.id == leader)
    }

    /// All brokers' numbers: each has every partition.
    pub(crate) fn ids(&self) -> Vec<BrokerId> {
        self.all.iter().map(|broker| broker.id).collect()
    }
}
