# Sidekiq over the Redis face, a worker in a process of its own: ruby sidekiq_smoke.rb HOST PORT

require "sidekiq"
require "sidekiq/api"

WORKS = Sidekiq.respond_to?(:server?) && Sidekiq.server?
URL = ENV["SIDEKIQ_SMOKE_URL"] || "redis://#{ARGV[0]}:#{ARGV[1]}/7"
[:configure_client, :configure_server].each do |configure|
  Sidekiq.public_send(configure) { |config| config.redis = { url: URL } }
end
Sidekiq.configure_server do |config|
  # How often it looks for what is due, in seconds.
  config.respond_to?(:options) ? config.options[:poll_interval_average] = 0.2 : config[:poll_interval_average] = 0.2
end
# Failures are what is tried here.
Sidekiq.logger.level = Logger::FATAL
Redis.silence_deprecations = true if defined?(Redis) && Redis.respond_to?(:silence_deprecations=)

class Add
  include Sidekiq::Worker

  def perform(number)
    Sidekiq.redis { |redis| redis.hincrby("smoke:sums", "add", number) }
  end
end

class FailsTwice
  include Sidekiq::Worker
  sidekiq_options queue: "low", retry: 5
  sidekiq_retry_in { 0 }

  def perform
    tries = Sidekiq.redis { |redis| redis.hincrby("smoke:sums", "tries", 1) }
    raise "not yet" if tries < 3
  end
end

class Broken
  include Sidekiq::Worker
  sidekiq_options retry: 0

  def perform
    raise "broken"
  end
end

def sums
  Sidekiq.redis { |redis| redis.hgetall("smoke:sums") }
end

def wait_until(what)
  120.times do
    return if yield
    sleep 0.5
  end
  abort "#{what}: #{sums}, queues #{Sidekiq::Stats.new.queues}, retries #{Sidekiq::RetrySet.new.size}"
end

def main
  Sidekiq.redis(&:flushdb)
  # Pushed while nobody works: one by one, in one piece, for later, for never.
  50.times { |number| Add.perform_async(number) }
  Sidekiq::Client.push_bulk("class" => Add, "args" => (50...150).map { |number| [number] })
  raise "150 jobs wait, not #{Sidekiq::Queue.new.size}" unless Sidekiq::Queue.new.size == 150
  Add.perform_in(1, 1_000_000)
  never = Add.perform_in(3600, 1)
  raise "the job for later is not found" unless Sidekiq::ScheduledSet.new.find_job(never).delete
  FailsTwice.perform_async
  Broken.perform_async
  worker = spawn({ "SIDEKIQ_SMOKE_URL" => URL }, "sidekiq", "-r", File.expand_path(__FILE__), "-c", "4", "-q", "default", "-q", "low", "-t", "5")
  begin
    wait_until("not all was added") { sums["add"].to_i == (0...150).sum + 1_000_000 }
    wait_until("the job that fails was not tried again") { sums["tries"].to_i == 3 }
    wait_until("the job that fails for good is not among the dead") { Sidekiq::DeadSet.new.size == 1 }
    wait_until("nothing is told of the worker") { Sidekiq::ProcessSet.new.size == 1 }
    wait_until("the count of what was done is wrong") { Sidekiq::Stats.new.processed >= 155 }
    Sidekiq::DeadSet.new.clear
  ensure
    Process.kill("TERM", worker)
    Process.wait(worker)
  end
  raise "something is left: #{Sidekiq::Stats.new.queues}" unless Sidekiq::Stats.new.enqueued.zero?
  puts "sidekiq #{Sidekiq::VERSION} ok"
end

main unless WORKS || ENV["SIDEKIQ_SMOKE_URL"]
