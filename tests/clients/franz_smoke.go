// Drives a node's Kafka face with franz-go: franz_smoke HOST:PORT
//
// Exits non-zero with the failed expectation. Needs github.com/twmb/franz-go and its pkg/kmsg.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var (
	address = "127.0.0.1:9092"
	run     = fmt.Sprintf("%x", time.Now().UnixNano())
)

func expect(condition bool, format string, values ...any) {
	if !condition {
		fmt.Fprintf(os.Stderr, "FAILED: "+format+"\n", values...)
		os.Exit(1)
	}
}

func must(err error, what string) {
	expect(err == nil, "%s: %v", what, err)
}

func client(options ...kgo.Opt) *kgo.Client {
	made, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(address)}, options...)...)
	must(err, "a client")
	return made
}

func createTopic(ctx context.Context, admin *kgo.Client, topic string, partitions int32) {
	request := kmsg.NewPtrCreateTopicsRequest()
	asked := kmsg.NewCreateTopicsRequestTopic()
	asked.Topic, asked.NumPartitions, asked.ReplicationFactor = topic, partitions, -1
	request.Topics = append(request.Topics, asked)
	response, err := request.RequestWith(ctx, admin)
	must(err, "create "+topic)
	must(kerr.ErrorForCode(response.Topics[0].ErrorCode), "create "+topic)
}

func collect(ctx context.Context, consumer *kgo.Client, count int) []*kgo.Record {
	var records []*kgo.Record
	for len(records) < count {
		fetches := consumer.PollFetches(ctx)
		must(fetches.Err0(), "poll")
		records = append(records, fetches.Records()...)
	}
	return records
}

func produceAndConsume(ctx context.Context, admin *kgo.Client) {
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	for name, codec := range codecs {
		topic := "franz-" + name + "-" + run
		createTopic(ctx, admin, topic, 3)
		producer := client(kgo.ProducerBatchCompression(codec), kgo.DefaultProduceTopic(topic))
		for number := 0; number < 300; number++ {
			producer.Produce(ctx, &kgo.Record{Key: []byte(fmt.Sprint(number % 7)), Value: []byte(fmt.Sprint(name, number))},
				func(_ *kgo.Record, err error) { must(err, "produce with "+name) })
		}
		must(producer.Flush(ctx), "flush")
		producer.Close()

		consumer := client(kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic), kgo.DisableAutoCommit(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		records := collect(ctx, consumer, 300)
		expect(len(records) == 300, "%s: 300 records, got %d", name, len(records))
		must(consumer.CommitUncommittedOffsets(ctx), "commit")
		consumer.Close()
		again := client(kgo.ConsumeTopics(topic), kgo.ConsumerGroup(topic), kgo.DisableAutoCommit(),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		soon, cancel := context.WithTimeout(ctx, 2*time.Second)
		fetches := again.PollFetches(soon)
		cancel()
		expect(fetches.NumRecords() == 0, "%s: what is committed does not come again", name)
		again.Close()
	}
	fmt.Println("ok produce and consume, all codecs, cooperative groups")
}

// transform moves what is in one topic to another, exactly once, aborting every other time.
func transform(ctx context.Context, admin *kgo.Client) {
	from, to := "franz-from-"+run, "franz-to-"+run
	createTopic(ctx, admin, from, 2)
	createTopic(ctx, admin, to, 2)
	producer := client(kgo.DefaultProduceTopic(from))
	for number := 0; number < 200; number++ {
		must(producer.ProduceSync(ctx, kgo.StringRecord(fmt.Sprint(number))).FirstErr(), "produce")
	}
	producer.Close()

	session, err := kgo.NewGroupTransactSession(kgo.SeedBrokers(address), kgo.ConsumeTopics(from),
		kgo.ConsumerGroup("franz-"+run), kgo.TransactionalID("franz-"+run), kgo.RequireStableFetchOffsets(),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	must(err, "a session")
	moved := 0
	for round := 0; moved < 200; round++ {
		fetches := session.PollRecords(ctx, 30)
		must(fetches.Err0(), "poll")
		if fetches.NumRecords() == 0 {
			continue
		}
		must(session.Begin(), "begin")
		fetches.EachRecord(func(record *kgo.Record) {
			session.Produce(ctx, &kgo.Record{Topic: to, Value: record.Value},
				func(_ *kgo.Record, err error) {
					// An abort gives up what has not been sent.
					expect(err == nil || errors.Is(err, kgo.ErrAborting), "produce in a transaction: %v", err)
				})
		})
		committed, err := session.End(ctx, kgo.TransactionEndTry(round%2 == 0))
		must(err, "end")
		if committed {
			moved += fetches.NumRecords()
		}
	}
	session.Close()
	reader := client(kgo.ConsumeTopics(to), kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	seen := map[string]int{}
	for _, record := range collect(ctx, reader, 200) {
		seen[string(record.Value)]++
	}
	reader.Close()
	expect(len(seen) == 200, "each of 200 records was moved once, %d values seen", len(seen))
	fmt.Println("ok exactly once from topic to topic")
}

func zombies(ctx context.Context, admin *kgo.Client) {
	topic := "franz-zombie-" + run
	createTopic(ctx, admin, topic, 1)
	id := kgo.TransactionalID("franz-zombie-" + run)
	old := client(id, kgo.DefaultProduceTopic(topic))
	must(old.BeginTransaction(), "begin")
	must(old.ProduceSync(ctx, kgo.StringRecord("old")).FirstErr(), "produce")
	next := client(id, kgo.DefaultProduceTopic(topic))
	must(next.BeginTransaction(), "begin")
	must(next.ProduceSync(ctx, kgo.StringRecord("new")).FirstErr(), "produce")
	must(next.EndTransaction(ctx, kgo.TryCommit), "commit")
	err := old.ProduceSync(ctx, kgo.StringRecord("zombie")).FirstErr()
	if err == nil {
		err = old.EndTransaction(ctx, kgo.TryCommit)
	}
	var refused *kerr.Error
	expect(errors.As(err, &refused), "a zombie is fenced, got %v", err)
	next.Close()
	fmt.Println("ok zombies are fenced:", refused.Message)
}

func main() {
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	ctx, cancel := context.WithTimeout(context.Background(), 150*time.Second)
	defer cancel()
	admin := client()
	produceAndConsume(ctx, admin)
	transform(ctx, admin)
	zombies(ctx, admin)
	admin.Close()
	fmt.Println("franz-go: all well")
}
