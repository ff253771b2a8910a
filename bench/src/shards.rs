//! What a node costs that has many shards.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::measure::{count, median};
use crate::processes::Proteus;
use crate::{Options, Result, load};

/// Shards of the nodes that are measured.
const SHARDS: [u32; 3] = [1, 16, 256];

/// Small keys written in pipelines before the node is killed.
const KEYS: u64 = 200_000;

/// Clients that write at once, one command at a time.
const CLIENTS: usize = 64;

/// Over how long they do, and processor time at rest is observed, in seconds.
const LOAD_S: f64 = 6.0;
const REST_S: f64 = 10.0;

/// How long what a start leaves behind may take to settle.
const SETTLE: Duration = Duration::from_secs(2);

/// Medians for one number of shards.
#[derive(Default)]
struct Figures {
    found_ms: Vec<f64>,
    start_again_ms: Vec<f64>,
    resident_mib: Vec<f64>,
    rest_percent: Vec<f64>,
    written_per_s: Vec<f64>,
    write_us: Vec<f64>,
    p99_ms: Vec<f64>,
    filled_per_s: Vec<f64>,
    fill_us: Vec<f64>,
    recovery_ms: Vec<f64>,
    filled_resident_mib: Vec<f64>,
}

pub(crate) async fn run(options: &Options, proteus: &Path) -> Result<()> {
    let mut all: Vec<Figures> = SHARDS.iter().map(|_| Figures::default()).collect();
    for _ in 0..options.rounds {
        for (shards, figures) in SHARDS.iter().zip(&mut all) {
            measure(options, proteus, *shards, figures).await?;
        }
    }
    println!("### Shards of one node\n");
    print!("| figure |");
    SHARDS.iter().for_each(|shards| print!(" {shards} |"));
    println!("\n| --- | ---: | ---: | ---: |");
    let row = |name: &str, figure: fn(&Figures) -> &Vec<f64>, unit: &str| {
        print!("| {name} |");
        for figures in &all {
            let figure = median(figure(figures).clone());
            if unit.is_empty() {
                print!(" {} |", count(figure));
            } else {
                print!(" {figure:.1} {unit} |");
            }
        }
        println!();
    };
    let keys = count(options.scaled(KEYS) as f64);
    row("empty directory: start to first answer", |f| &f.found_ms, "ms");
    row("killed at once: start to first answer", |f| &f.start_again_ms, "ms");
    row("at rest: resident memory", |f| &f.resident_mib, "MiB");
    row("at rest: processor time", |f| &f.rest_percent, "% of a core");
    row("SET, 64 clients: a second", |f| &f.written_per_s, "");
    row("SET, 64 clients: p99", |f| &f.p99_ms, "ms");
    row("SET, 64 clients: processor time each", |f| &f.write_us, "µs");
    row("SET in pipelines of 1000: a second", |f| &f.filled_per_s, "");
    row("SET in pipelines of 1000: processor time each", |f| &f.fill_us, "µs");
    row(&format!("with {keys} keys and more: resident memory"), |f| &f.filled_resident_mib, "MiB");
    row("killed with kill -9 then: start to first answer", |f| &f.recovery_ms, "ms");
    println!();
    Ok(())
}

async fn measure(
    options: &Options,
    binary: &Path,
    shards: u32,
    figures: &mut Figures,
) -> Result<()> {
    let mut node = Proteus::start_shards(binary, options.temporary()?, shards)?;
    figures.found_ms.push(milliseconds(node.first_answer));
    figures.start_again_ms.push(restart(&mut node)?);
    std::thread::sleep(SETTLE);
    let rest = options.seconds(REST_S);
    let before_s = node.server.processor_s();
    std::thread::sleep(rest);
    let used_s = node.server.processor_s() - before_s;
    figures.rest_percent.push(used_s / rest.as_secs_f64() * 100.0);
    figures.resident_mib.push(node.server.resident_mib());

    let address = node.server.address;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(Client::connect(address, number as u64).await?);
    }
    let before_s = node.server.processor_s();
    let (load, set) = (options.seconds(LOAD_S), |client: Client, number| client.set(number));
    let (sample, _) = load::closed_loop(clients, load, set).await?;
    let used_s = node.server.processor_s() - before_s;
    figures.written_per_s.push(sample.per_second);
    figures.p99_ms.push(sample.p99_ms);
    figures.write_us.push(used_s / (sample.per_second * load.as_secs_f64()) * 1e6);

    let keys = options.scaled(KEYS);
    let (before_s, started) = (node.server.processor_s(), Instant::now());
    load::fill_redis(address, keys)?;
    let used_s = node.server.processor_s() - before_s;
    figures.filled_per_s.push(keys as f64 / started.elapsed().as_secs_f64());
    figures.fill_us.push(used_s / keys as f64 * 1e6);
    figures.filled_resident_mib.push(node.server.resident_mib());
    figures.recovery_ms.push(restart(&mut node)?);
    Ok(())
}

/// Kills the node and starts it again; says how long it took until it answered.
fn restart(node: &mut Proteus) -> Result<f64> {
    node.server.kill();
    let started = Instant::now();
    node.restart()?;
    Ok(milliseconds(started.elapsed()))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// One connection, which sets keys of its own in turn.
struct Client {
    stream: TcpStream,
    number: u64,
}

impl Client {
    async fn connect(address: SocketAddr, number: u64) -> Result<Client> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        Ok(Client { stream, number })
    }

    async fn set(mut self, request: u64) -> (Client, Result<()>) {
        let key = format!("own:{:03}:{:07}", self.number, request % 10_000);
        let command = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n$5\r\nvalue\r\n", key.len());
        let mut answer = [0; 5];
        let asked = async {
            self.stream.write_all(command.as_bytes()).await?;
            self.stream.read_exact(&mut answer).await
        };
        let result = match asked.await {
            Ok(_) if answer == *b"+OK\r\n" => Ok(()),
            Ok(_) => Err(format!("SET was refused: {}", answer.escape_ascii())),
            Err(error) => Err(error.to_string()),
        };
        (self, result)
    }
}
