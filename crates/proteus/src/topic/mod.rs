//! `proteus topic …`: what one does with topics and groups from a shell, over the Kafka protocol.

mod client;
mod groups;
mod mirror;
mod records;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, DescribeConfigsRequest, TopicName,
};

use client::{Cluster, Target, call, check, text};
use records::{EARLIEST, From, LATEST, Printing, offset_at};

/// Kafka's standard port.
const PORT: u16 = 9092;
/// Where a setting comes from that the topic itself has.
const SOURCE_TOPIC: i8 = 1;
const RESOURCE_TOPIC: i8 = 2;
const TIMEOUT_MS: i32 = 30_000;

/// Which cluster.
#[derive(Args)]
pub(crate) struct Where {
    /// Any broker of the cluster [default: 127.0.0.1:9092]
    #[arg(long, value_name = "HOST:PORT", global = true)]
    bootstrap: Option<String>,
    /// Added to the standard port of a node on this machine
    #[arg(long, value_name = "N", global = true, conflicts_with = "bootstrap")]
    port_offset: Option<u16>,
    /// Account as user:password [env: PROTEUS_USER]
    #[arg(long, value_name = "USER:PASSWORD", global = true)]
    user: Option<String>,
}

impl Where {
    fn target(&self) -> Result<Target, String> {
        let port = PORT.checked_add(self.port_offset.unwrap_or(0));
        let port = port.ok_or("the port offset is too large")?;
        let bootstrap = self.bootstrap.clone().unwrap_or_else(|| format!("127.0.0.1:{port}"));
        let account = self.user.clone().or_else(|| std::env::var("PROTEUS_USER").ok());
        Ok(Target { bootstrap, account: account.as_deref().map(account_of).transpose()? })
    }
}

fn account_of(text: &str) -> Result<(String, String), String> {
    let (user, password) = text.split_once(':').ok_or("an account is USER:PASSWORD")?;
    Ok((user.to_owned(), password.to_owned()))
}

#[derive(Subcommand)]
pub(crate) enum TopicCommand {
    /// Make a topic.
    Create {
        topic: String,
        /// How many partitions
        #[arg(long, default_value_t = 1)]
        partitions: i32,
        /// A setting; may be repeated
        #[arg(long, value_name = "NAME=VALUE")]
        config: Vec<String>,
    },
    /// Say what a topic has: partitions, offsets, settings.
    Describe { topic: String },
    /// List topics with their numbers of partitions.
    List,
    /// Remove a topic and all its records.
    Delete { topic: String },
    /// Send each line of standard input as a record.
    Produce {
        topic: String,
        /// Split each line into key and value
        #[arg(long, value_name = "TEXT")]
        key_separator: Option<String>,
        /// To this partition only
        #[arg(long)]
        partition: Option<i32>,
    },
    /// Print records up to the end.
    Consume {
        topic: String,
        /// earliest, latest, an offset, or @MILLISECONDS since the Unix epoch
        #[arg(long, default_value = "earliest")]
        from: String,
        /// Of this partition only
        #[arg(long)]
        partition: Option<i32>,
        /// Go on when new records come
        #[arg(long)]
        follow: bool,
        /// Stop after so many records
        #[arg(long, value_name = "N")]
        max: Option<u64>,
        /// Print the key and a tab before each value
        #[arg(long)]
        keys: bool,
        /// Print partition, offset and timestamp before each record
        #[arg(long)]
        places: bool,
    },
    /// List consumer groups with their states.
    Groups,
    /// Say how far a group is behind.
    Lag { group: String },
    /// Set what a group has committed for a topic. Its members must have left.
    ResetOffsets {
        group: String,
        topic: String,
        /// earliest, latest, an offset, or @MILLISECONDS since the Unix epoch
        #[arg(long)]
        to: String,
        /// Do it; without this it is only shown
        #[arg(long)]
        execute: bool,
    },
    /// Copy topics of another Kafka cluster with their offsets, to move here.
    ///
    /// The copies take the offsets of the originals (setting proteus.mirror), so what groups have
    /// committed holds for them, too. While a topic is a mirror nobody else can produce to it. A
    /// mirror that was interrupted goes on where it was.
    Mirror {
        /// Any broker of the other cluster
        #[arg(long, value_name = "HOST:PORT")]
        source: String,
        /// Account there, as user:password
        #[arg(long, value_name = "USER:PASSWORD")]
        source_user: Option<String>,
        /// Topics to copy
        #[arg(required = true)]
        topics: Vec<String>,
        /// A group whose committed offsets are copied, too; may be repeated
        #[arg(long)]
        group: Vec<String>,
        /// Go on when everything is copied
        #[arg(long, conflicts_with = "finish")]
        follow: bool,
        /// In the end open the copies to producers
        #[arg(long)]
        finish: bool,
    },
}

/// Carries out a command.
pub(crate) async fn run(place: &Where, command: TopicCommand) -> Result<(), String> {
    let mut cluster = Cluster::new(place.target()?);
    let cluster = &mut cluster;
    cluster.metadata(None).await?;
    let said = match command {
        TopicCommand::Create { topic, partitions, config } => {
            create(cluster, &topic, partitions, &config).await?
        }
        TopicCommand::Describe { topic } => describe(cluster, &topic).await?,
        TopicCommand::List => list(cluster).await?,
        TopicCommand::Delete { topic } => delete(cluster, &topic).await?,
        TopicCommand::Produce { topic, key_separator, partition } => {
            return records::produce(cluster, &topic, partition, key_separator.as_deref()).await;
        }
        TopicCommand::Consume { topic, from, partition, follow, max, keys, places } => {
            let printing = Printing {
                with_keys: keys,
                with_places: places,
                follows: follow,
                count_max: max.unwrap_or(u64::MAX),
            };
            return records::consume(cluster, &topic, partition, from.parse()?, printing).await;
        }
        TopicCommand::Groups => groups::list(cluster).await?,
        TopicCommand::Lag { group } => groups::lag(cluster, &group).await?,
        TopicCommand::ResetOffsets { group, topic, to, execute } => {
            let to: From = to.parse()?;
            groups::reset(cluster, &group, &topic, to, execute).await?
        }
        TopicCommand::Mirror { source, source_user, topics, group, follow, finish } => {
            let account = source_user.as_deref().map(account_of).transpose()?;
            let mut source = Cluster::new(Target { bootstrap: source, account });
            source.metadata(None).await?;
            let plan = mirror::Plan { topics, groups: group, follows: follow, finishes: finish };
            mirror::run(&mut source, cluster, &plan).await?;
            format!("{} topics are copied\n", plan.topics.len())
        }
    };
    crate::cli::print(&said)
}

async fn create(
    cluster: &mut Cluster,
    topic: &str,
    partitions: i32,
    config: &[String],
) -> Result<String, String> {
    let mut configs = Vec::with_capacity(config.len());
    for setting in config {
        let (name, value) =
            setting.split_once('=').ok_or_else(|| format!("'{setting}' is not NAME=VALUE"))?;
        let entry = CreatableTopicConfig::default().with_name(text(name));
        configs.push(entry.with_value(Some(text(value))));
    }
    let wanted = CreatableTopic::default()
        .with_name(TopicName(text(topic)))
        .with_num_partitions(partitions)
        .with_replication_factor(1)
        .with_configs(configs);
    let request =
        CreateTopicsRequest::default().with_topics(vec![wanted]).with_timeout_ms(TIMEOUT_MS);
    let response = call!(cluster, None, CreateTopics, 4, request)?;
    for result in &response.topics {
        let why = result.error_message.as_deref().unwrap_or_default();
        check(result.error_code, &format!("creating '{topic}': {why}"))?;
    }
    Ok(format!("{topic} has {partitions} partitions\n"))
}

async fn list(cluster: &mut Cluster) -> Result<String, String> {
    let topics: BTreeMap<String, usize> = cluster
        .metadata(None)
        .await?
        .topics
        .into_iter()
        .map(|topic| (topic.name.unwrap_or_default().to_string(), topic.partitions.len()))
        .collect();
    let lines = topics.iter().map(|(name, count)| format!("{name}\t{count}\n"));
    Ok(format!("TOPIC\tPARTITIONS\n{}", lines.collect::<String>()))
}

async fn describe(cluster: &mut Cluster, topic: &str) -> Result<String, String> {
    let mut said = "PARTITION\tLEADER\tSTART\tEND\n".to_owned();
    for leader in cluster.leaders(topic).await? {
        let start = offset_at(cluster, topic, leader, EARLIEST).await?;
        let end = offset_at(cluster, topic, leader, LATEST).await?;
        said.push_str(&format!("{}\t{}\t{start}\t{end}\n", leader.0, leader.1));
    }
    let resource = DescribeConfigsResource::default()
        .with_resource_type(RESOURCE_TOPIC)
        .with_resource_name(text(topic))
        .with_configuration_keys(None);
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let response = call!(cluster, None, DescribeConfigs, 1, request)?;
    for result in &response.results {
        check(result.error_code, &format!("settings of '{topic}'"))?;
        for entry in result.configs.iter().filter(|entry| entry.config_source == SOURCE_TOPIC) {
            let value = entry.value.as_deref().unwrap_or_default();
            said.push_str(&format!("{}={value}\n", &*entry.name));
        }
    }
    Ok(said)
}

async fn delete(cluster: &mut Cluster, topic: &str) -> Result<String, String> {
    let request = DeleteTopicsRequest::default()
        .with_topic_names(vec![TopicName(text(topic))])
        .with_timeout_ms(TIMEOUT_MS);
    let response = call!(cluster, None, DeleteTopics, 3, request)?;
    for result in &response.responses {
        check(result.error_code, &format!("deleting '{topic}'"))?;
    }
    Ok(format!("{topic} is deleted\n"))
}
