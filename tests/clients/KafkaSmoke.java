// Drives a node's Kafka face with the Java client: java -cp CLASSPATH KafkaSmoke.java HOST:PORT
//
// Exits non-zero with the failed expectation. Needs kafka-clients and slf4j-api on the class path.

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.ProducerFencedException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class KafkaSmoke {
    static final String RUN = UUID.randomUUID().toString().substring(0, 8);
    static final Duration PATIENCE = Duration.ofSeconds(60);
    static String address;

    static void expect(boolean condition, String message) {
        if (!condition) {
            System.err.println("FAILED: " + message);
            System.exit(1);
        }
    }

    static Properties settings(Map<String, String> more) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", address);
        settings.putAll(more);
        return settings;
    }

    static KafkaProducer<String, String> producer(Map<String, String> more) {
        return new KafkaProducer<>(settings(more), new StringSerializer(), new StringSerializer());
    }

    static KafkaConsumer<String, String> consumer(Map<String, String> more) {
        Properties settings = settings(Map.of("auto.offset.reset", "earliest", "enable.auto.commit", "false"));
        settings.putAll(more);
        return new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
    }

    static List<ConsumerRecord<String, String>> collect(KafkaConsumer<String, String> consumer, int count) {
        List<ConsumerRecord<String, String>> records = new ArrayList<>();
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        while (records.size() < count && System.nanoTime() < deadline) {
            consumer.poll(Duration.ofMillis(200)).forEach(records::add);
        }
        return records;
    }

    /** Whether a codec's library is not on the class path. */
    static boolean isMissing(Throwable failure) {
        for (Throwable cause = failure; cause != null; cause = cause.getCause()) {
            if (cause instanceof ClassNotFoundException || cause instanceof LinkageError) {
                return true;
            }
        }
        return false;
    }

    static void produceAndConsume() throws Exception {
        for (String codec : List.of("none", "gzip", "lz4", "snappy", "zstd")) {
            String topic = "java-" + codec + "-" + RUN;
            try (var producer = producer(Map.of("compression.type", codec, "linger.ms", "5"))) {
                for (int number = 0; number < 500; number++) {
                    producer.send(new ProducerRecord<>(topic, "k" + number, codec + number));
                }
                producer.flush();
            } catch (Throwable failure) {
                if (!isMissing(failure)) {
                    throw failure;
                }
                System.out.println("   (no codec " + codec + " on this class path)");
                continue;
            }
            for (String protocol : List.of("classic", "consumer")) {
                var group = Map.of("group.id", topic + protocol, "group.protocol", protocol);
                try (var consumer = consumer(group)) {
                    consumer.subscribe(List.of(topic));
                    var records = collect(consumer, 500);
                    expect(records.size() == 500, codec + ", " + protocol + ": 500 records, got " + records.size());
                    for (int number = 0; number < 500; number++) {
                        expect(records.get(number).value().equals(codec + number), codec + ": values come in order");
                    }
                    consumer.commitSync();
                    var partition = new TopicPartition(topic, 0);
                    var committed = consumer.committed(Set.of(partition)).get(partition);
                    expect(committed != null && committed.offset() == 500, protocol + ": the offset is committed");
                }
            }
        }
        System.out.println("ok produce and consume, all codecs, both group protocols");
    }

    static void administer() throws Exception {
        try (Admin admin = Admin.create(settings(Map.of()))) {
            String topic = "java-admin-" + RUN;
            admin.createTopics(List.of(new NewTopic(topic, 3, (short) 1))).all().get();
            try {
                admin.createTopics(List.of(new NewTopic(topic, 3, (short) 1))).all().get();
                expect(false, "creating a topic twice is refused");
            } catch (ExecutionException error) {
                expect(error.getCause() instanceof TopicExistsException, "refused as " + error.getCause());
            }
            admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all().get();
            var described = admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic);
            expect(described.partitions().size() == 5, "it has grown");
            var resource = new ConfigResource(ConfigResource.Type.TOPIC, topic);
            var set = new AlterConfigOp(new ConfigEntry("retention.ms", "3600000"), AlterConfigOp.OpType.SET);
            admin.incrementalAlterConfigs(Map.of(resource, List.of(set))).all().get();
            var config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
            expect(config.get("retention.ms").value().equals("3600000"), "its settings are changed");
            // Of the last minute: retention would delete what is older than the hour that was set.
            long first_ms = System.currentTimeMillis() - 60_000;
            try (var producer = producer(Map.of())) {
                for (int number = 0; number < 10; number++) {
                    producer.send(new ProducerRecord<>(topic, 0, first_ms + number, null, "v" + number));
                }
            }
            var partition = new TopicPartition(topic, 0);
            var at = admin.listOffsets(Map.of(partition, OffsetSpec.forTimestamp(first_ms + 4))).partitionResult(partition);
            expect(at.get().offset() == 4, "an offset by time");
            admin.deleteRecords(Map.of(partition, RecordsToDelete.beforeOffset(3))).all().get();
            var earliest = admin.listOffsets(Map.of(partition, OffsetSpec.earliest())).partitionResult(partition);
            expect(earliest.get().offset() == 3, "records are deleted");
            expect(admin.describeCluster().nodes().get().size() >= 1, "there is a broker");
            admin.listConsumerGroups().all().get();
            admin.describeLogDirs(List.of(admin.describeCluster().controller().get().id())).allDescriptions().get();
            admin.deleteTopics(List.of(topic)).all().get();
        } catch (NoSuchMethodError older) {
            System.out.println("   (an older client: " + older.getMessage() + ")");
        }
        System.out.println("ok admin: topics, partitions, configs, offsets, records, groups");
    }

    static void transactions() throws Exception {
        String topic = "java-tx-" + RUN;
        var id = Map.of("transactional.id", "java-" + RUN);
        var producer = producer(id);
        producer.initTransactions();
        for (int number = 0; number < 3; number++) {
            producer.beginTransaction();
            for (int record = 0; record < 10; record++) {
                producer.send(new ProducerRecord<>(topic, number + "-" + record));
            }
            if (number == 1) {
                producer.flush();
                producer.abortTransaction();
            } else {
                producer.sendOffsetsToTransaction(
                    Map.of(new TopicPartition(topic, 0), new OffsetAndMetadata(number)),
                    new org.apache.kafka.clients.consumer.ConsumerGroupMetadata("java-g-" + RUN));
                producer.commitTransaction();
            }
        }
        producer.beginTransaction();
        producer.send(new ProducerRecord<>(topic, "zombie"));
        producer.flush();
        try (var successor = producer(id)) {
            successor.initTransactions();
        }
        try {
            producer.commitTransaction();
            expect(false, "a zombie is fenced");
        } catch (ProducerFencedException | org.apache.kafka.common.errors.InvalidProducerEpochException fenced) {
            producer.close(Duration.ZERO);
        }
        try (var consumer = consumer(Map.of("isolation.level", "read_committed", "group.id", "java-g2-" + RUN))) {
            consumer.assign(List.of(new TopicPartition(topic, 0)));
            consumer.seekToBeginning(List.of(new TopicPartition(topic, 0)));
            var records = collect(consumer, 20);
            consumer.poll(Duration.ofMillis(300)).forEach(records::add);
            expect(records.size() == 20, "20 committed records, got " + records.size());
            expect(records.stream().noneMatch(r -> r.value().startsWith("1-") || r.value().equals("zombie")),
                "no aborted record is seen");
        }
        System.out.println("ok transactions: commit, abort, offsets, fencing");
    }

    public static void main(String[] arguments) throws Exception {
        address = arguments.length > 0 ? arguments[0] : "127.0.0.1:9092";
        produceAndConsume();
        administer();
        transactions();
        System.out.println("kafka-clients (Java): all well");
    }
}
