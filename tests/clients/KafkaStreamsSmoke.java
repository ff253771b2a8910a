// Counts words with Kafka Streams, exactly once: java -cp CLASSPATH KafkaStreamsSmoke.java HOST:PORT
//
// Exits non-zero with the failed expectation. Needs kafka-streams, kafka-clients, rocksdbjni, Jackson and slf4j-api on
// the class path.

import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.LongDeserializer;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.state.Stores;

public class KafkaStreamsSmoke {
    static final String RUN = UUID.randomUUID().toString().substring(0, 8);
    static final String INPUT = "lines-" + RUN, OUTPUT = "counts-" + RUN;
    static final int LINES = 500;

    static void expect(boolean condition, String message) {
        if (!condition) {
            System.err.println("FAILED: " + message);
            System.exit(1);
        }
    }

    static KafkaStreams wordCount(String address, String directory) {
        var settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "count-" + RUN);
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, address);
        settings.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, directory);
        settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 100);
        settings.put("auto.offset.reset", "earliest");
        settings.put("session.timeout.ms", "10000");
        var builder = new StreamsBuilder();
        builder.stream(INPUT, Consumed.with(Serdes.String(), Serdes.String()))
            .flatMapValues(line -> List.of(line.split(" ")))
            .groupBy((key, word) -> word, Grouped.with(Serdes.String(), Serdes.String()))
            .count(Materialized.<String, Long>as(Stores.inMemoryKeyValueStore("counts"))
                .withKeySerde(Serdes.String()).withValueSerde(Serdes.Long()))
            .toStream()
            .to(OUTPUT, Produced.with(Serdes.String(), Serdes.Long()));
        return new KafkaStreams(builder.build(), settings);
    }

    static void produce(String address, int from, int upto) {
        Map<String, Object> settings = Map.of("bootstrap.servers", address);
        try (var producer = new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            for (int number = from; number < upto; number++) {
                producer.send(new ProducerRecord<>(INPUT, "" + number, "word" + number % 7 + " all"));
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        String address = arguments.length > 0 ? arguments[0] : "127.0.0.1:9092";
        Map<String, Object> settings = Map.of("bootstrap.servers", address);
        String directory = System.getProperty("java.io.tmpdir") + "/streams-" + RUN;
        try (Admin admin = Admin.create(settings)) {
            admin.createTopics(List.of(new NewTopic(INPUT, 3, (short) 1), new NewTopic(OUTPUT, 2, (short) 1))).all().get();
        }
        Map<String, List<Long>> counts = new HashMap<>();
        var first = wordCount(address, directory + "-1");
        first.start();
        produce(address, 0, LINES / 2);
        var second = wordCount(address, directory + "-2");
        second.start();
        produce(address, LINES / 2, LINES);
        Map<String, Object> reading = new HashMap<>(settings);
        reading.put("group.id", "reader-" + RUN);
        reading.put("auto.offset.reset", "earliest");
        reading.put("isolation.level", "read_committed");
        try (var consumer = new KafkaConsumer<>(reading, new StringDeserializer(), new LongDeserializer())) {
            consumer.subscribe(List.of(OUTPUT));
            long deadline = System.nanoTime() + Duration.ofSeconds(100).toNanos();
            boolean hasStopped = false;
            while (System.nanoTime() < deadline) {
                consumer.poll(Duration.ofMillis(200))
                    .forEach(record -> counts.computeIfAbsent(record.key(), key -> new ArrayList<>()).add(record.value()));
                long all = counts.getOrDefault("all", List.of(0L)).stream().mapToLong(Long::longValue).max().getAsLong();
                if (!hasStopped && all > LINES / 4) {
                    // Its tasks move to the other, which restores their counts from the changelog.
                    first.close(Duration.ofSeconds(10));
                    hasStopped = true;
                }
                if (all >= LINES) {
                    break;
                }
            }
        }
        first.close(Duration.ofSeconds(10));
        second.close(Duration.ofSeconds(10));
        for (var entry : counts.entrySet()) {
            long before = 0;
            for (long count : entry.getValue()) {
                expect(count > before, entry.getKey() + " counts up: " + entry.getValue());
                before = count;
            }
        }
        expect(counts.containsKey("all"), "words are counted");
        long all = counts.get("all").get(counts.get("all").size() - 1);
        expect(all == LINES, LINES + " lines are counted once each, got " + all);
        long words = 0;
        for (int word = 0; word < 7; word++) {
            List<Long> one = counts.getOrDefault("word" + word, List.of(0L));
            words += one.get(one.size() - 1);
        }
        expect(words == LINES, "and their words, got " + words);
        System.out.println("ok a word count, exactly once, moved from one instance to another");
        System.out.println("kafka-streams (Java): all well");
    }
}
