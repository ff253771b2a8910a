// Drives a node's Kafka face with sarama: go run sarama_smoke.go HOST:PORT
//
// Exits non-zero with the failed expectation. Needs sarama (Debian: golang-github-shopify-sarama-dev, with
// GO111MODULE=off and GOPATH=/usr/share/gocode).
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/Shopify/sarama"
)

func expect(condition bool, message string, details ...interface{}) {
	if !condition {
		fmt.Println("FAILED:", message, details)
		os.Exit(1)
	}
}

func drive(address, run string) {
	topic := "sarama-" + run
	config := sarama.NewConfig()
	config.Version = sarama.V2_1_0_0
	config.Producer.Return.Successes = true
	config.Producer.Idempotent = true
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Net.MaxOpenRequests = 1
	config.Producer.Compression = sarama.CompressionLZ4
	admin, err := sarama.NewClusterAdmin([]string{address}, config)
	expect(err == nil, "an admin client", err)
	err = admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}, false)
	expect(err == nil, "a topic is created", err)
	producer, err := sarama.NewSyncProducer([]string{address}, config)
	expect(err == nil, "a producer", err)
	for number := 0; number < 100; number++ {
		value := sarama.StringEncoder(fmt.Sprint(number))
		_, offset, err := producer.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: value})
		expect(err == nil && offset == int64(number), "a message is sent", offset, err)
	}
	consumer, err := sarama.NewConsumer([]string{address}, config)
	expect(err == nil, "a consumer", err)
	partition, err := consumer.ConsumePartition(topic, 0, sarama.OffsetOldest)
	expect(err == nil, "a partition", err)
	for number := 0; number < 100; number++ {
		select {
		case message := <-partition.Messages():
			expect(string(message.Value) == fmt.Sprint(number), "messages come in order", message.Value)
		case <-time.After(60 * time.Second):
			expect(false, "a message comes")
		}
	}
	expect(admin.DeleteTopic(topic) == nil, "the topic is deleted")
	fmt.Println("ok sarama: admin, idempotent producer, consumer")
}

func main() {
	run := fmt.Sprint(time.Now().UnixNano())
	drive(os.Args[1], run)
	fmt.Println("sarama: all well")
}
