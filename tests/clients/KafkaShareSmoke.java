// Drives a node's share groups with the Java client, 4.2 or newer: java -cp CLASSPATH KafkaShareSmoke.java HOST:PORT
//
// Exits non-zero with the failed expectation. Needs kafka-clients and slf4j-api on the class path.

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ListShareGroupOffsetsSpec;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.AcknowledgeType;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaShareConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.GroupType;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class KafkaShareSmoke {
    static final String RUN = UUID.randomUUID().toString().substring(0, 8);
    static final Duration PATIENCE = Duration.ofSeconds(60);
    static String address;
    static Admin admin;

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

    static void produce(String topic, int from, int upto, Map<String, String> more) {
        try (var producer = new KafkaProducer<>(settings(more), new StringSerializer(), new StringSerializer())) {
            if (more.containsKey("transactional.id")) {
                producer.initTransactions();
                producer.beginTransaction();
            }
            for (int number = from; number < upto; number++) {
                producer.send(new ProducerRecord<>(topic, null, "" + number));
            }
            producer.flush();
            if (more.containsKey("transactional.id")) {
                if (more.get("transactional.id").startsWith("abort")) {
                    producer.abortTransaction();
                } else {
                    producer.commitTransaction();
                }
            }
        }
    }

    static KafkaShareConsumer<String, String> consumer(String group, String topic, Map<String, String> more) {
        Properties settings = settings(Map.of("group.id", group));
        settings.putAll(more);
        var consumer = new KafkaShareConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        consumer.subscribe(List.of(topic));
        return consumer;
    }

    static void configure(String group, String name, String value) throws Exception {
        var resource = new ConfigResource(ConfigResource.Type.GROUP, group);
        var set = new AlterConfigOp(new ConfigEntry(name, value), AlterConfigOp.OpType.SET);
        admin.incrementalAlterConfigs(Map.of(resource, List.of(set))).all().get();
        var config = admin.describeConfigs(List.of(resource)).all().get().get(resource);
        expect(config.get(name).value().equals(value), name + " is set");
    }

    static String topic(String name, int partitions) throws Exception {
        String topic = name + "-" + RUN;
        admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1))).all().get();
        configure("g-" + topic, "share.auto.offset.reset", "earliest");
        return topic;
    }

    /** Two consumers share one partition; what each got is acknowledged by polling again. */
    static void shareImplicitly() throws Exception {
        String topic = topic("implicit", 1);
        produce(topic, 0, 1000, Map.of("batch.size", "1000"));
        Set<Integer> seen = new TreeSet<>();
        int[] counts = new int[2];
        try (var first = consumer("g-" + topic, topic, Map.of("max.poll.records", "50"));
             var second = consumer("g-" + topic, topic, Map.of("max.poll.records", "50"))) {
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            while (seen.size() < 1000 && System.nanoTime() < deadline) {
                int which = 0;
                for (var consumer : List.of(first, second)) {
                    for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofMillis(100))) {
                        expect(seen.add(Integer.parseInt(record.value())), "record " + record.value() + " comes once");
                        counts[which]++;
                    }
                    which++;
                }
            }
            // What was polled last is acknowledged by the next poll, or by this.
            first.commitSync();
            second.commitSync();
        }
        expect(seen.size() == 1000, "1000 records, got " + seen.size());
        expect(counts[0] > 0 && counts[1] > 0, "both got some: " + counts[0] + ", " + counts[1]);
        try (var late = consumer("g-" + topic, topic, Map.of())) {
            int more = late.poll(Duration.ofSeconds(2)).count();
            expect(more == 0, "what is acknowledged does not come again, got " + more);
        }
        System.out.println("ok two consumers share a partition: " + counts[0] + " and " + counts[1]);
    }

    /** Accept, release and reject, record by record; what is released comes again, five times at most. */
    static void acknowledgeExplicitly() throws Exception {
        String topic = topic("explicit", 2);
        produce(topic, 0, 30, Map.of());
        Map<Integer, Integer> deliveries = new HashMap<>();
        try (var consumer = consumer("g-" + topic, topic, Map.of("share.acknowledgement.mode", "explicit"))) {
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            int idle = 0;
            while (System.nanoTime() < deadline && idle < 8) {
                var records = consumer.poll(Duration.ofMillis(250));
                idle = records.isEmpty() ? idle + 1 : 0;
                for (ConsumerRecord<String, String> record : records) {
                    int number = Integer.parseInt(record.value());
                    int delivery = deliveries.merge(number, 1, Integer::sum);
                    expect(record.deliveryCount().get() == delivery, "delivery " + delivery + " says " + record.deliveryCount());
                    consumer.acknowledge(record, switch (number % 3) {
                        case 0 -> AcknowledgeType.ACCEPT;
                        case 1 -> AcknowledgeType.RELEASE;
                        default -> AcknowledgeType.REJECT;
                    });
                }
                for (var result : consumer.commitSync().values()) {
                    expect(result.isEmpty(), "committed: " + result);
                }
            }
        }
        expect(deliveries.size() == 30, "all 30 came, got " + deliveries.size());
        deliveries.forEach((number, count) ->
            expect(count == (number % 3 == 1 ? 5 : 1), number + " was delivered " + count + " times"));
        System.out.println("ok accept, release and reject; five deliveries at most");
    }

    /** A consumer that holds records too long loses them to another. */
    static void loseToTime() throws Exception {
        String topic = topic("slow", 1);
        configure("g-" + topic, "share.record.lock.duration.ms", "1500");
        produce(topic, 0, 10, Map.of());
        try (var slow = consumer("g-" + topic, topic, Map.of("share.acknowledgement.mode", "explicit"));
             var quick = consumer("g-" + topic, topic, Map.of())) {
            int held = 0;
            while (held == 0) {
                held = slow.poll(Duration.ofMillis(500)).count();
            }
            List<ConsumerRecord<String, String>> records = new ArrayList<>();
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            while (records.size() < 10 && System.nanoTime() < deadline) {
                quick.poll(Duration.ofMillis(200)).forEach(records::add);
            }
            expect(records.size() == 10, "the other gets all 10, got " + records.size());
            expect(records.stream().anyMatch(record -> record.deliveryCount().get() == 2), "some for the second time");
        }
        System.out.println("ok a lock ends after its time");
    }

    /** With read_committed nobody is given what was aborted, nor what is not decided. */
    static void readCommitted() throws Exception {
        String topic = topic("committed", 1);
        configure("g-" + topic, "share.isolation.level", "read_committed");
        produce(topic, 0, 10, Map.of("transactional.id", "commit-" + RUN));
        produce(topic, 10, 20, Map.of("transactional.id", "abort-" + RUN));
        produce(topic, 20, 30, Map.of());
        List<String> values = new ArrayList<>();
        try (var consumer = consumer("g-" + topic, topic, Map.of())) {
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            while (values.size() < 20 && System.nanoTime() < deadline) {
                consumer.poll(Duration.ofMillis(200)).forEach(record -> values.add(record.value()));
            }
            consumer.poll(Duration.ofMillis(300)).forEach(record -> values.add(record.value()));
        }
        expect(values.size() == 20 && values.stream().noneMatch(value -> value.startsWith("1") && value.length() == 2),
            "only what was committed: " + values);
        System.out.println("ok read_committed");
    }

    static void administer() throws Exception {
        String topic = topic("admin", 1);
        String group = "g-" + topic;
        produce(topic, 0, 10, Map.of());
        var partition = new TopicPartition(topic, 0);
        try (var consumer = consumer(group, topic, Map.of())) {
            int got = 0;
            while (got < 10) {
                got += consumer.poll(Duration.ofMillis(200)).count();
            }
            consumer.commitSync();
            var described = admin.describeShareGroups(List.of(group)).all().get().get(group);
            expect(described.members().size() == 1, "one member is described");
            expect(described.members().iterator().next().assignment().topicPartitions().contains(partition), "its partition");
        }
        expect(admin.listGroups().all().get().stream()
            .anyMatch(one -> one.groupId().equals(group) && one.type().get() == GroupType.SHARE), "it is listed as a share group");
        var spec = Map.of(group, new ListShareGroupOffsetsSpec());
        var offsets = admin.listShareGroupOffsets(spec).partitionsToOffsetInfo(group).get();
        expect(offsets.get(partition).startOffset() == 10, "its start is told: " + offsets);
        admin.alterShareGroupOffsets(group, Map.of(partition, 4L)).all().get();
        try (var consumer = consumer(group, topic, Map.of())) {
            int got = 0;
            long deadline = System.nanoTime() + PATIENCE.toNanos();
            while (got < 6 && System.nanoTime() < deadline) {
                got += consumer.poll(Duration.ofMillis(200)).count();
            }
            expect(got == 6, "from offset 4 on there are 6, got " + got);
        }
        admin.deleteShareGroupOffsets(group, Set.of(topic)).all().get();
        expect(admin.listShareGroupOffsets(spec).partitionsToOffsetInfo(group).get().isEmpty(), "offsets are deleted");
        admin.alterShareGroupOffsets(group, Map.of(partition, 0L)).all().get();
        admin.deleteShareGroups(List.of(group)).all().get();
        expect(admin.listGroups().all().get().stream().noneMatch(one -> one.groupId().equals(group)), "the group is deleted");
        System.out.println("ok admin of share groups");
    }

    public static void main(String[] arguments) throws Exception {
        address = arguments.length > 0 ? arguments[0] : "127.0.0.1:9092";
        admin = Admin.create(settings(Map.of()));
        shareImplicitly();
        acknowledgeExplicitly();
        loseToTime();
        readCommitted();
        administer();
        admin.close();
        System.out.println("kafka-clients (Java), share groups: all well");
    }
}
