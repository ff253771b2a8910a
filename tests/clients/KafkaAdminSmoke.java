// What Kafka's administrators' tools ask, by the Java client's Admin: java -cp CLASSPATH KafkaAdminSmoke.java HOST:PORT
//
// Each method is named after the tool whose calls it makes. Exits non-zero with the failed expectation. Needs
// kafka-clients 4.2 and slf4j-api on the class path.

import java.time.Duration;
import java.util.*;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.acl.*;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.*;
import org.apache.kafka.common.quota.*;
import org.apache.kafka.common.resource.*;
import org.apache.kafka.common.serialization.*;

public class KafkaAdminSmoke {
    static final String RUN = UUID.randomUUID().toString().substring(0, 8);
    static final String TOPIC = "admin-" + RUN;
    static final String GROUP = "admin-group-" + RUN;
    static final int RECORDS = 100;
    static String address;
    static Admin admin;

    static void expect(boolean condition, String message) {
        if (!condition) {
            throw new AssertionError(message);
        }
    }

    static void same(Object expected, Object found, String what) {
        expect(Objects.equals(expected, found), what + ": expected " + expected + ", found " + found);
    }

    /** That a call fails with the protocol's own error, whose message is not empty. */
    static void refused(Class<?> error, Callable<?> call, String what) throws Exception {
        try {
            Object answer = call.call();
            throw new AssertionError(what + " was answered with " + answer);
        } catch (ExecutionException failure) {
            Throwable cause = failure.getCause();
            expect(error.isInstance(cause), what + ": " + cause);
            expect(cause.getMessage() != null && !cause.getMessage().isEmpty(), what + " gives no reason");
        }
    }

    static Properties settings(String... more) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", address);
        for (int i = 0; i < more.length; i += 2) {
            settings.put(more[i], more[i + 1]);
        }
        return settings;
    }

    static List<TopicPartition> partitions() {
        return List.of(new TopicPartition(TOPIC, 0), new TopicPartition(TOPIC, 1));
    }

    static KafkaProducer<String, String> producer(String... more) {
        return new KafkaProducer<>(settings(more), new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(String... more) {
        Properties settings = settings("group.id", GROUP, "auto.offset.reset", "earliest", "enable.auto.commit", "false");
        settings.putAll(settings(more));
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    static void topics() throws Exception {
        Map<String, String> configs = Map.of("retention.ms", "100000000");
        admin.createTopics(List.of(new NewTopic(TOPIC, 2, (short) 1).configs(configs))).all().get();
        expect(admin.listTopics().names().get().contains(TOPIC), "the topic is listed");
        DescribeTopicsOptions options = new DescribeTopicsOptions().includeAuthorizedOperations(true);
        TopicDescription description = admin.describeTopics(List.of(TOPIC), options).allTopicNames().get().get(TOPIC);
        same(2, description.partitions().size(), "partitions");
        expect(description.authorizedOperations().contains(AclOperation.READ), "what may be done with a topic is told");
        expect(!description.authorizedOperations().contains(AclOperation.CLUSTER_ACTION), "and what there is not for topics is not");
        refused(TopicExistsException.class,
            () -> admin.createTopics(List.of(new NewTopic(TOPIC, 1, (short) 1))).all().get(), "a second topic of the name");
        refused(InvalidTopicException.class,
            () -> admin.createTopics(List.of(new NewTopic("no such name!", 1, (short) 1))).all().get(), "a name that is none");
        refused(InvalidConfigurationException.class,
            () -> admin.createTopics(List.of(new NewTopic(TOPIC + "x", 1, (short) 1).configs(Map.of("no.such", "1")))).all().get(),
            "a setting that is none");
        try (KafkaProducer<String, String> producer = producer()) {
            for (int i = 0; i < RECORDS; i++) {
                producer.send(new ProducerRecord<>(TOPIC, i % 2, "key-" + i, "value"));
            }
        }
    }

    static void getOffsets() throws Exception {
        Map<OffsetSpec, Long> expected = Map.of(OffsetSpec.earliest(), 0L, OffsetSpec.latest(), RECORDS / 2L,
            OffsetSpec.maxTimestamp(), RECORDS / 2 - 1L, OffsetSpec.forTimestamp(0), 0L, OffsetSpec.earliestLocal(), 0L,
            OffsetSpec.latestTiered(), -1L);
        for (Map.Entry<OffsetSpec, Long> entry : expected.entrySet()) {
            TopicPartition partition = partitions().get(0);
            long offset = admin.listOffsets(Map.of(partition, entry.getKey())).all().get().get(partition).offset();
            String what = "offset of " + entry.getKey().getClass().getSimpleName();
            if (entry.getKey() instanceof OffsetSpec.MaxTimestampSpec) {
                expect(offset >= 0 && offset < RECORDS / 2, what + ": " + offset);
            } else {
                same(entry.getValue(), offset, what);
            }
        }
    }

    static Map<String, ConfigEntry> entries(ConfigResource resource) throws Exception {
        DescribeConfigsOptions options = new DescribeConfigsOptions().includeSynonyms(true).includeDocumentation(true);
        Config config = admin.describeConfigs(List.of(resource), options).all().get().get(resource);
        return config.entries().stream().collect(Collectors.toMap(ConfigEntry::name, entry -> entry));
    }

    static void alter(ConfigResource resource, AlterConfigOp.OpType operation, String name, String value) throws Exception {
        AlterConfigOp change = new AlterConfigOp(new ConfigEntry(name, value), operation);
        admin.incrementalAlterConfigs(Map.of(resource, List.of(change))).all().get();
    }

    static void configs() throws Exception {
        ConfigResource topic = new ConfigResource(ConfigResource.Type.TOPIC, TOPIC);
        same("100000000", entries(topic).get("retention.ms").value(), "retention.ms");
        same(ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, entries(topic).get("retention.ms").source(), "its source");
        alter(topic, AlterConfigOp.OpType.APPEND, "cleanup.policy", "compact");
        same("delete,compact", entries(topic).get("cleanup.policy").value(), "cleanup.policy");
        alter(topic, AlterConfigOp.OpType.SUBTRACT, "cleanup.policy", "compact");
        alter(topic, AlterConfigOp.OpType.DELETE, "retention.ms", "");
        expect(entries(topic).get("retention.ms").isDefault(), "a deleted setting is the default");
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, broker());
        expect(entries(broker).containsKey("num.partitions"), "the broker tells its settings");
        expect(!entries(new ConfigResource(ConfigResource.Type.BROKER, "")).isEmpty(), "and what holds for all brokers");
        refused(InvalidRequestException.class, () -> {
            alter(broker, AlterConfigOp.OpType.SET, "num.partitions", "7");
            return null;
        }, "a broker's setting");
        ConfigResource loggers = new ConfigResource(ConfigResource.Type.BROKER_LOGGER, broker());
        refused(InvalidRequestException.class, () -> entries(loggers), "a broker's loggers");
        groupConfigs();
        quotas();
        credentials();
        Set<ConfigResource.Type> types = Set.of(ConfigResource.Type.GROUP, ConfigResource.Type.TOPIC);
        Collection<ConfigResource> resources = admin.listConfigResources(types, new ListConfigResourcesOptions()).all().get();
        expect(resources.contains(topic), "resources with settings are listed");
    }

    static void groupConfigs() throws Exception {
        ConfigResource group = new ConfigResource(ConfigResource.Type.GROUP, GROUP);
        for (String setting : List.of("consumer.session.timeout.ms", "share.session.timeout.ms")) {
            String before = entries(group).get(setting).value();
            alter(group, AlterConfigOp.OpType.SET, setting, "50000");
            same("50000", entries(group).get(setting).value(), setting);
            same(ConfigEntry.ConfigSource.DYNAMIC_GROUP_CONFIG, entries(group).get(setting).source(), "its source");
            alter(group, AlterConfigOp.OpType.DELETE, setting, "");
            same(before, entries(group).get(setting).value(), "what holds without " + setting);
        }
        for (String[] wrong : new String[][] {{"consumer.session.timeout.ms", "1"}, {"consumer.heartbeat.interval.ms", "soon"},
            {"no.such.setting", "1"}, {"share.auto.offset.reset", "nowhere"}}) {
            refused(InvalidConfigurationException.class, () -> {
                alter(group, AlterConfigOp.OpType.SET, wrong[0], wrong[1]);
                return null;
            }, String.join("=", wrong));
        }
    }

    static void quotas() throws Exception {
        ClientQuotaEntity entity = new ClientQuotaEntity(Map.of(ClientQuotaEntity.CLIENT_ID, "client-" + RUN));
        ClientQuotaAlteration.Op rate = new ClientQuotaAlteration.Op("producer_byte_rate", 1e6);
        admin.alterClientQuotas(List.of(new ClientQuotaAlteration(entity, List.of(rate)))).all().get();
        ClientQuotaFilter all = ClientQuotaFilter.all();
        same(1e6, admin.describeClientQuotas(all).entities().get().get(entity).get("producer_byte_rate"), "a quota");
        ClientQuotaAlteration.Op none = new ClientQuotaAlteration.Op("producer_byte_rate", null);
        admin.alterClientQuotas(List.of(new ClientQuotaAlteration(entity, List.of(none)))).all().get();
        expect(!admin.describeClientQuotas(all).entities().get().containsKey(entity), "a quota is deleted");
        ClientQuotaEntity ip = new ClientQuotaEntity(Map.of(ClientQuotaEntity.IP, "127.0.0.9"));
        ClientQuotaAlteration.Op connections = new ClientQuotaAlteration.Op("connection_creation_rate", 10.0);
        refused(InvalidRequestException.class,
            () -> admin.alterClientQuotas(List.of(new ClientQuotaAlteration(ip, List.of(connections)))).all().get(),
            "a quota of connections");
        ClientQuotaFilter ips = ClientQuotaFilter.contains(List.of(ClientQuotaFilterComponent.ofEntityType(ClientQuotaEntity.IP)));
        expect(admin.describeClientQuotas(ips).entities().get().isEmpty(), "there are no quotas of addresses");
    }

    static void credentials() throws Exception {
        String user = "user-" + RUN;
        ScramCredentialInfo info = new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096);
        admin.alterUserScramCredentials(List.of(new UserScramCredentialUpsertion(user, info, "secret"))).all().get();
        same(List.of(info), admin.describeUserScramCredentials(List.of(user)).all().get().get(user).credentialInfos(), "a credential");
        expect(admin.describeUserScramCredentials().all().get().containsKey(user), "it is listed");
        admin.alterUserScramCredentials(List.of(new UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_256))).all().get();
        expect(!admin.describeUserScramCredentials().all().get().containsKey(user), "it is deleted");
        refused(ResourceNotFoundException.class,
            () -> admin.alterUserScramCredentials(List.of(new UserScramCredentialDeletion(user, ScramMechanism.SCRAM_SHA_256))).all().get(),
            "deleting it again");
    }

    static String broker() throws Exception {
        return admin.describeCluster().nodes().get().iterator().next().idString();
    }

    static void acls() throws Exception {
        ResourcePattern pattern = new ResourcePattern(ResourceType.TOPIC, "acl-" + RUN, PatternType.PREFIXED);
        List<AclBinding> bindings = new ArrayList<>();
        for (AclOperation operation : List.of(AclOperation.READ, AclOperation.DESCRIBE)) {
            bindings.add(new AclBinding(pattern, new AccessControlEntry("User:bob", "*", operation, AclPermissionType.ALLOW)));
        }
        admin.createAcls(bindings).all().get();
        AclBindingFilter filter = new AclBindingFilter(pattern.toFilter(), AccessControlEntryFilter.ANY);
        same(new HashSet<>(bindings), new HashSet<>(admin.describeAcls(filter).values().get()), "the rules");
        ResourcePatternFilter match = new ResourcePatternFilter(ResourceType.TOPIC, "acl-" + RUN + "-more", PatternType.MATCH);
        same(2, admin.describeAcls(new AclBindingFilter(match, AccessControlEntryFilter.ANY)).values().get().size(), "rules that match");
        expect(admin.describeAcls(AclBindingFilter.ANY).values().get().containsAll(bindings), "all rules");
        same(2, admin.deleteAcls(List.of(filter)).all().get().size(), "rules deleted");
        expect(admin.describeAcls(filter).values().get().isEmpty(), "and gone");
    }

    static void consumerGroups() throws Exception {
        Map<TopicPartition, OffsetAndMetadata> committed = new HashMap<>();
        partitions().forEach(partition -> committed.put(partition, new OffsetAndMetadata(10)));
        for (String protocol : List.of("classic", "consumer")) {
            String group = GROUP + protocol;
            try (KafkaConsumer<String, String> consumer = consumer("group.id", group, "group.protocol", protocol, "client.id", "me")) {
                consumer.subscribe(List.of(TOPIC));
                long deadline = System.nanoTime() + Duration.ofSeconds(60).toNanos();
                while (consumer.assignment().size() < 2 && System.nanoTime() < deadline) {
                    consumer.poll(Duration.ofMillis(100));
                }
                consumer.commitSync(committed);
                DescribeConsumerGroupsOptions options = new DescribeConsumerGroupsOptions().includeAuthorizedOperations(true);
                ConsumerGroupDescription description = admin.describeConsumerGroups(List.of(group), options).all().get().get(group);
                same(GroupState.STABLE, description.groupState(), "state");
                same(GroupType.parse(protocol), description.type(), "type");
                same(1, description.members().size(), "members");
                MemberDescription member = description.members().iterator().next();
                same("me", member.clientId(), "client id");
                same(new HashSet<>(partitions()), member.assignment().topicPartitions(), "assignment");
                expect(member.host().contains("127.0.0.1"), "host " + member.host());
                expect(description.authorizedOperations().contains(AclOperation.READ), "what may be done with a group is told");
                refused(GroupNotEmptyException.class, () -> admin.deleteConsumerGroups(List.of(group)).all().get(), "deleting a group in use");
                refused(GroupSubscribedToTopicException.class,
                    () -> admin.deleteConsumerGroupOffsets(group, Set.of(partitions().get(0))).partitionResult(partitions().get(0)).get(),
                    "deleting offsets in use");
                refused(UnknownMemberIdException.class, () -> admin.alterConsumerGroupOffsets(group, committed).all().get(), "offsets of a group in use");
            }
            GroupListing listing = admin.listGroups().all().get().stream().filter(one -> one.groupId().equals(group)).findFirst().get();
            same("consumer", listing.protocol(), "protocol of " + listing);
            ListGroupsOptions empty = new ListGroupsOptions().inGroupStates(Set.of(GroupState.EMPTY));
            expect(admin.listGroups(empty).all().get().stream().anyMatch(one -> one.groupId().equals(group)), "it is empty");
            same(10L, admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get().get(partitions().get(0)).offset(), "committed");
            admin.alterConsumerGroupOffsets(group, Map.of(partitions().get(0), new OffsetAndMetadata(0))).all().get();
            admin.deleteConsumerGroupOffsets(group, Set.of(partitions().get(1))).all().get();
            Map<TopicPartition, OffsetAndMetadata> left = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
            same(Map.of(partitions().get(0), 0L), left.entrySet().stream().filter(entry -> entry.getValue() != null)
                .collect(Collectors.toMap(Map.Entry::getKey, entry -> entry.getValue().offset())), "what is left");
            admin.deleteConsumerGroups(List.of(group)).all().get();
            refused(GroupIdNotFoundException.class, () -> admin.describeConsumerGroups(List.of(group)).all().get(), "a deleted group");
            refused(GroupIdNotFoundException.class, () -> admin.deleteConsumerGroups(List.of(group)).all().get(), "deleting it again");
        }
    }

    static void shareGroups() throws Exception {
        String group = GROUP + "share";
        alter(new ConfigResource(ConfigResource.Type.GROUP, group), AlterConfigOp.OpType.SET, "share.auto.offset.reset", "earliest");
        Properties settings = settings("group.id", group);
        try (KafkaShareConsumer<String, String> consumer =
                new KafkaShareConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(TOPIC));
            int count = 0;
            long deadline = System.nanoTime() + Duration.ofSeconds(60).toNanos();
            while (count < RECORDS && System.nanoTime() < deadline) {
                count += consumer.poll(Duration.ofMillis(200)).count();
            }
            same(RECORDS, count, "records shared");
            consumer.commitSync();
            ShareGroupDescription description = admin.describeShareGroups(List.of(group)).all().get().get(group);
            same(1, description.members().size(), "members");
            refused(GroupNotEmptyException.class, () -> admin.deleteShareGroups(List.of(group)).all().get(), "deleting a share group in use");
        }
        ListGroupsOptions shares = ListGroupsOptions.forShareGroups();
        expect(admin.listGroups(shares).all().get().stream().anyMatch(one -> one.groupId().equals(group)), "it is listed");
        ListShareGroupOffsetsSpec all = new ListShareGroupOffsetsSpec();
        var offsets = admin.listShareGroupOffsets(Map.of(group, all)).partitionsToOffsetInfo(group).get();
        same(RECORDS / 2L, offsets.get(partitions().get(0)).startOffset(), "where the group is");
        admin.alterShareGroupOffsets(group, Map.of(partitions().get(0), 7L)).all().get();
        same(7L, admin.listShareGroupOffsets(Map.of(group, all)).partitionsToOffsetInfo(group).get().get(partitions().get(0)).startOffset(),
            "where it was put");
        admin.deleteShareGroupOffsets(group, Set.of(TOPIC)).all().get();
        expect(admin.listShareGroupOffsets(Map.of(group, all)).partitionsToOffsetInfo(group).get().isEmpty(), "its offsets are deleted");
        admin.alterShareGroupOffsets(group, Map.of(partitions().get(0), 7L)).all().get();
        admin.deleteShareGroups(List.of(group)).all().get();
        refused(GroupIdNotFoundException.class, () -> admin.describeShareGroups(List.of(group)).all().get(), "a deleted share group");
    }

    static void deleteRecords() throws Exception {
        TopicPartition partition = partitions().get(0);
        DeletedRecords deleted = admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(5))).lowWatermarks().get(partition).get();
        same(5L, deleted.lowWatermark(), "low watermark");
        refused(org.apache.kafka.common.errors.OffsetOutOfRangeException.class,
            () -> admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(5000))).all().get(), "deleting what is not there");
    }

    static void logDirs() throws Exception {
        int id = Integer.parseInt(broker());
        Map<String, LogDirDescription> dirs = admin.describeLogDirs(List.of(id)).allDescriptions().get().get(id);
        ReplicaInfo replica = dirs.values().iterator().next().replicaInfos().get(partitions().get(0));
        expect(replica.size() > 0, "a partition has a size");
        TopicPartitionReplica one = new TopicPartitionReplica(TOPIC, 0, id);
        expect(admin.describeReplicaLogDirs(List.of(one)).all().get().get(one).getCurrentReplicaLogDir() != null, "a replica has a directory");
        refused(LogDirNotFoundException.class, () -> admin.alterReplicaLogDirs(Map.of(one, "/elsewhere")).all().get(), "another directory");
    }

    static void transactions() throws Exception {
        String id = "transaction-" + RUN;
        try (KafkaProducer<String, String> producer = producer("transactional.id", id)) {
            producer.initTransactions();
            producer.beginTransaction();
            long start = producer.send(new ProducerRecord<>(TOPIC, 0, "key", "value")).get().offset();
            expect(admin.listTransactions().all().get().stream().anyMatch(one -> one.transactionalId().equals(id)), "it is listed");
            TransactionDescription description = admin.describeTransactions(List.of(id)).all().get().get(id);
            same(TransactionState.ONGOING, description.state(), "state");
            same(Set.of(partitions().get(0)), description.topicPartitions(), "partitions");
            ProducerState state = admin.describeProducers(List.of(partitions().get(0))).all().get().get(partitions().get(0))
                .activeProducers().stream().filter(one -> one.producerId() == description.producerId()).findFirst().get();
            same(OptionalLong.of(start), state.currentTransactionStartOffset(), "where the transaction began");
            AbortTransactionSpec spec = new AbortTransactionSpec(partitions().get(0), state.producerId(),
                (short) state.producerEpoch(), state.coordinatorEpoch().orElse(0));
            admin.abortTransaction(spec).all().get();
            ProducerState after = admin.describeProducers(List.of(partitions().get(0))).all().get().get(partitions().get(0))
                .activeProducers().stream().filter(one -> one.producerId() == description.producerId()).findFirst().get();
            same(OptionalLong.empty(), after.currentTransactionStartOffset(), "the transaction is aborted");
            try {
                producer.commitTransaction();
                throw new AssertionError("a transaction that was aborted is committed");
            } catch (KafkaException fine) {
                // The producer learns that its transaction is no more.
            }
        }
        admin.fenceProducers(List.of(id)).all().get();
        expect(admin.describeTransactions(List.of(id)).all().get().get(id).producerEpoch() > 0, "a fenced producer has a later epoch");
    }

    static void cluster() throws Exception {
        DescribeClusterResult cluster = admin.describeCluster(new DescribeClusterOptions().includeAuthorizedOperations(true));
        expect(!cluster.clusterId().get().isEmpty(), "the cluster has an id");
        expect(cluster.controller().get() != null, "and a controller");
        expect(cluster.authorizedOperations().get().contains(AclOperation.ALTER), "what may be done with the cluster is told");
        FeatureMetadata features = admin.describeFeatures().featureMetadata().get();
        expect(features.finalizedFeatures().containsKey("transaction.version"), "features are told");
        refused(UnsupportedVersionException.class, () -> admin.updateFeatures(
            Map.of("group.version", new FeatureUpdate((short) 1, FeatureUpdate.UpgradeType.UPGRADE)), new UpdateFeaturesOptions()).all().get(),
            "changing a feature");
        QuorumInfo quorum = admin.describeMetadataQuorum().quorumInfo().get();
        expect(quorum.voters().stream().anyMatch(voter -> voter.replicaId() == quorum.leaderId()), "the quorum's leader is a voter");
        expect(quorum.highWatermark() > 0, "and has committed something");
    }

    static void leaderElection() throws Exception {
        Set<TopicPartition> some = Set.of(partitions().get(0));
        refused(ElectionNotNeededException.class, () -> {
            Optional<Throwable> failure = admin.electLeaders(ElectionType.PREFERRED, some).partitions().get().get(partitions().get(0));
            throw new ExecutionException(failure.orElseThrow());
        }, "an election");
        same(Map.of(), admin.electLeaders(ElectionType.PREFERRED, null).partitions().get(), "elections that all partitions need");
    }

    static void reassignPartitions() throws Exception {
        same(Map.of(), admin.listPartitionReassignments().reassignments().get(), "reassignments");
        NewPartitionReassignment elsewhere = new NewPartitionReassignment(List.of(77));
        refused(InvalidReplicaAssignmentException.class,
            () -> admin.alterPartitionReassignments(Map.of(partitions().get(0), Optional.of(elsewhere))).all().get(), "a replica elsewhere");
        refused(NoReassignmentInProgressException.class,
            () -> admin.alterPartitionReassignments(Map.of(partitions().get(0), Optional.empty())).all().get(), "ending none");
    }

    static void delegationTokens() throws Exception {
        refused(UnsupportedVersionException.class, () -> admin.createDelegationToken().delegationToken().get(), "a delegation token");
    }

    public static void main(String[] arguments) throws Exception {
        address = arguments[0];
        admin = Admin.create(settings());
        Map<String, Callable<Void>> tools = new LinkedHashMap<>();
        tools.put("kafka-topics", () -> { topics(); return null; });
        tools.put("kafka-get-offsets", () -> { getOffsets(); return null; });
        tools.put("kafka-configs", () -> { configs(); return null; });
        tools.put("kafka-acls", () -> { acls(); return null; });
        tools.put("kafka-consumer-groups", () -> { consumerGroups(); return null; });
        tools.put("kafka-share-groups", () -> { shareGroups(); return null; });
        tools.put("kafka-delete-records", () -> { deleteRecords(); return null; });
        tools.put("kafka-log-dirs", () -> { logDirs(); return null; });
        tools.put("kafka-transactions", () -> { transactions(); return null; });
        tools.put("kafka-cluster, kafka-features, kafka-metadata-quorum", () -> { cluster(); return null; });
        tools.put("kafka-leader-election", () -> { leaderElection(); return null; });
        tools.put("kafka-reassign-partitions", () -> { reassignPartitions(); return null; });
        tools.put("kafka-delegation-tokens", () -> { delegationTokens(); return null; });
        boolean failed = false;
        for (Map.Entry<String, Callable<Void>> tool : tools.entrySet()) {
            try {
                tool.getValue().call();
                System.out.println("   " + tool.getKey());
            } catch (Throwable failure) {
                failed = true;
                System.err.println("FAILED: " + tool.getKey());
                failure.printStackTrace();
            }
        }
        admin.close();
        System.exit(failed ? 1 : 0);
    }
}
