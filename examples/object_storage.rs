//! Reads an image in an object store: [`Storage`] over GET requests for ranges, with a cache of
//! blocks. The store is a small HTTP server of this program's own.
//!
//!     cargo run --example object_storage -- testdata/cloud.qcow2 cloud.raw

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diskimage::target::FileTarget;
use diskimage::{Convert, Error, ErrorKind, OpenOptions, Result, Storage, Target, VirtualDisk};

/// What every object store has. For S3 these are `HeadObject`, and `GetObject` with `Range` and
/// `If-Match`, so that an object which is replaced meanwhile is an error.
trait ObjectStore: Send + Sync + std::fmt::Debug {
    /// The length of an object, and what tells this version of it.
    fn head(&self, key: &str) -> io::Result<(u64, String)>;
    /// The bytes `first..=last` of that version.
    fn get(&self, key: &str, version: &str, first: u64, last: u64) -> io::Result<Vec<u8>>;
}

/// Bytes that are asked for at a time: a request costs much, and a table's neighbours are wanted next.
const BLOCK: u64 = 1 << 20;
/// Blocks that are kept.
const BLOCKS: usize = 16;

type Blocks = HashMap<u64, (u64, Arc<[u8]>)>;

/// An object as the storage of an image.
#[derive(Debug)]
struct ObjectStorage<S> {
    store: S,
    key: String,
    version: String,
    size: u64,
    /// Blocks by number, with the time of their last use.
    cache: Mutex<Blocks>,
    clock: AtomicU64,
    requests: AtomicU64,
}

impl<S: ObjectStore> ObjectStorage<S> {
    fn open(store: S, key: &str) -> Result<Self> {
        let head = store.head(key);
        let (size, version) = head.map_err(|source| Error::io("ask for the object", source))?;
        let (cache, clock, requests) = Default::default();
        Ok(Self { store, key: key.to_owned(), version, size, cache, clock, requests })
    }

    fn block(&self, number: u64) -> Result<Arc<[u8]>> {
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        let cache = || self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((used, block)) = cache().get_mut(&number) {
            *used = now;
            return Ok(Arc::clone(block));
        }
        // no lock is held while the network is waited for
        let first = number * BLOCK;
        let last = (first + BLOCK).min(self.size) - 1;
        self.requests.fetch_add(1, Ordering::Relaxed);
        // a real one would try again a few times
        let bytes = self.store.get(&self.key, &self.version, first, last);
        let bytes = bytes.map_err(|source| Error::io("get a range", source).at(first))?;
        if bytes.len() as u64 != last - first + 1 {
            return Err(Error::other(ErrorKind::Io, "the store sent another range").at(first));
        }
        let block: Arc<[u8]> = bytes.into();
        let mut cache = cache();
        if cache.len() >= BLOCKS
            && let Some(oldest) = cache.iter().min_by_key(|(_, (used, _))| *used).map(|(n, _)| *n)
        {
            cache.remove(&oldest);
        }
        cache.insert(number, (now, Arc::clone(&block)));
        Ok(block)
    }
}

impl<S: ObjectStore> Storage for ObjectStorage<S> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size) {
            // that an image speaks of more than its file has is the image's fault, not the network's
            return Err(Error::other(ErrorKind::Corrupt, "the object ends before").at(offset));
        }
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let block = self.block(at / BLOCK)?;
            let block = &block[(at % BLOCK) as usize..];
            let length = block.len().min(rest.len());
            let (part, behind) = rest.split_at_mut(length);
            part.copy_from_slice(&block[..length]);
            (rest, at) = (behind, at + length as u64);
        }
        Ok(())
    }

    fn path(&self) -> Option<&Path> {
        Some(Path::new(&self.key))
    }
}

/// A store that speaks just enough HTTP.
#[derive(Debug)]
struct Http(SocketAddr);

impl Http {
    fn request(&self, request: &str) -> io::Result<(HashMap<String, String>, Vec<u8>)> {
        let mut stream = TcpStream::connect(self.0)?;
        stream.write_all(format!("{request}Connection: close\r\n\r\n").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut status = String::new();
        reader.read_line(&mut status)?;
        if !status.contains(" 200 ") && !status.contains(" 206 ") {
            return Err(io::Error::other(status.trim().to_owned()));
        }
        let mut headers = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let mut body = Vec::new();
        reader.read_to_end(&mut body)?;
        Ok((headers, body))
    }
}

impl ObjectStore for Http {
    fn head(&self, key: &str) -> io::Result<(u64, String)> {
        let (headers, _) = self.request(&format!("HEAD /{key} HTTP/1.1\r\n"))?;
        let length = headers.get("content-length").and_then(|value| value.parse().ok());
        let length = length.ok_or_else(|| io::Error::other("no Content-Length"))?;
        Ok((length, headers.get("etag").cloned().unwrap_or_default()))
    }

    fn get(&self, key: &str, version: &str, first: u64, last: u64) -> io::Result<Vec<u8>> {
        let range = format!("Range: bytes={first}-{last}\r\nIf-Match: {version}\r\n");
        Ok(self.request(&format!("GET /{key} HTTP/1.1\r\n{range}"))?.1)
    }
}

/// Serves one object to whoever asks.
fn serve(listener: &TcpListener, object: &[u8]) -> io::Result<()> {
    for stream in listener.incoming() {
        let mut reader = BufReader::new(stream?);
        let (mut head, mut range) = (String::new(), None);
        reader.read_line(&mut head)?;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some(bytes) = line.trim().strip_prefix("Range: bytes=") {
                range = bytes.split_once('-').and_then(|(first, last)| {
                    Some(first.parse::<usize>().ok()?..=last.parse::<usize>().ok()?)
                });
            }
        }
        let (status, body) = match &range {
            Some(range) => ("206 Partial Content", object.get(range.clone()).unwrap_or_default()),
            None => ("200 OK", object),
        };
        let length = body.len();
        let answer =
            format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"1\"\r\n\r\n");
        let mut stream = reader.into_inner();
        stream.write_all(answer.as_bytes())?;
        if !head.starts_with("HEAD") {
            stream.write_all(body)?;
        }
    }
    Ok(())
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let (Some(image), Some(raw)) = (args.next(), args.next()) else {
        return Err("usage: object_storage IMAGE TARGET".into());
    };
    let object = std::fs::read(image)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || serve(&listener, &object));

    let storage = Arc::new(ObjectStorage::open(Http(address), "images/cloud.qcow2")?);
    let name = Path::new("images/cloud.qcow2");
    let disk =
        OpenOptions::new().open_storage(Arc::<ObjectStorage<Http>>::clone(&storage), name)?;
    println!("opened by {} request(s)", storage.requests.load(Ordering::Relaxed));
    let target = FileTarget::create(raw, disk.size())?;
    let report = Convert::new().run(&disk, &target)?;
    Box::new(target).finish()?;
    println!(
        "{} of {} bytes are data; {} request(s) for an object of {} bytes",
        report.written,
        report.size,
        storage.requests.load(Ordering::Relaxed),
        storage.size,
    );
    Ok(())
}
