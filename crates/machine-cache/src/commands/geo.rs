//! Places on earth: sorted sets whose scores are geohashes of 52 bits.
//!
//! A search looks at the cell of the centre and its eight neighbours, cells being as large as the
//! search needs; each cell is a range of scores.

use bytes::Bytes;

use super::sorted_sets::{between, scores, store};
use super::{Arguments, Command, Flags, Group, Keys, ONE, READ, TWO, WRITE, command, failure, run};
use crate::exec::{Exec, Result, SYNTAX, error};
use crate::head::Kind;
use crate::number::parse_float;
use crate::reply::Reply;

const G: Group = Group::Geo;
const MOVABLE: Flags = WRITE.and(Flags::MOVABLE_KEYS);

pub(super) const TABLE: &[Command] = &[
    command("geoadd", -5, WRITE, ONE, G, geoadd),
    command("geodist", -4, READ, ONE, G, geodist),
    command("geohash", -2, READ, ONE, G, geohash),
    command("geopos", -2, READ, ONE, G, geopos),
    command("georadius", -6, MOVABLE, Keys::OneAndStore, G, |x, a| {
        search(x, a, Form::Radius, true)
    }),
    command("georadius_ro", -6, READ, ONE, G, |x, a| search(x, a, Form::Radius, false)),
    command("georadiusbymember", -5, MOVABLE, Keys::OneAndStore, G, |x, a| {
        search(x, a, Form::ByMember, true)
    }),
    command("georadiusbymember_ro", -5, READ, ONE, G, |x, a| search(x, a, Form::ByMember, false)),
    command("geosearch", -7, READ, ONE, G, |x, a| search(x, a, Form::Search, false)),
    command("geosearchstore", -8, WRITE, TWO, G, |x, a| search(x, a, Form::SearchStore, true)),
];

const LATITUDE_MAX: f64 = 85.051_128_78;
const LONGITUDE_MAX: f64 = 180.0;
const STEPS_MAX: u32 = 26;
const EARTH_RADIUS_M: f64 = 6_372_797.560_856;
const MERCATOR_MAX_M: f64 = 20_037_726.37;

#[derive(Debug, Clone, Copy)]
struct Point {
    longitude: f64,
    latitude: f64,
}

/// A cell: so many bits of each coordinate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    longitude: u64,
    latitude: u64,
    steps: u32,
}

fn interleave(low: u64, high: u64) -> u64 {
    let spread = |mut bits: u64| {
        bits = (bits | bits << 16) & 0x0000_FFFF_0000_FFFF;
        bits = (bits | bits << 8) & 0x00FF_00FF_00FF_00FF;
        bits = (bits | bits << 4) & 0x0F0F_0F0F_0F0F_0F0F;
        bits = (bits | bits << 2) & 0x3333_3333_3333_3333;
        (bits | bits << 1) & 0x5555_5555_5555_5555
    };
    spread(low) | spread(high) << 1
}

fn squeeze(bits: u64) -> u64 {
    let mut bits = bits & 0x5555_5555_5555_5555;
    bits = (bits | bits >> 1) & 0x3333_3333_3333_3333;
    bits = (bits | bits >> 2) & 0x0F0F_0F0F_0F0F_0F0F;
    bits = (bits | bits >> 4) & 0x00FF_00FF_00FF_00FF;
    bits = (bits | bits >> 8) & 0x0000_FFFF_0000_FFFF;
    (bits | bits >> 16) & 0x0000_0000_FFFF_FFFF
}

impl Cell {
    fn of(point: Point, latitude_max: f64, steps: u32) -> Cell {
        let scale = (1u64 << steps) as f64;
        let offset = |value: f64, max: f64| ((value + max) / (2.0 * max) * scale) as u64;
        Cell {
            longitude: offset(point.longitude, LONGITUDE_MAX),
            latitude: offset(point.latitude, latitude_max),
            steps,
        }
    }

    fn of_score(score: f64) -> Cell {
        let bits = score as u64;
        Cell { latitude: squeeze(bits), longitude: squeeze(bits >> 1), steps: STEPS_MAX }
    }

    fn bits(self) -> u64 {
        interleave(self.latitude, self.longitude)
    }

    fn neighbour(self, east: i64, north: i64) -> Cell {
        let mask = (1u64 << self.steps) - 1;
        Cell {
            longitude: self.longitude.wrapping_add_signed(east) & mask,
            latitude: self.latitude.wrapping_add_signed(north) & mask,
            steps: self.steps,
        }
    }

    /// Least and greatest longitude, least and greatest latitude.
    fn bounds(self) -> [f64; 4] {
        let scale = (1u64 << self.steps) as f64;
        let place = |at: u64, max: f64| -max + at as f64 / scale * (2.0 * max);
        [
            place(self.longitude, LONGITUDE_MAX),
            place(self.longitude + 1, LONGITUDE_MAX),
            place(self.latitude, LATITUDE_MAX),
            place(self.latitude + 1, LATITUDE_MAX),
        ]
    }

    fn centre(self) -> Point {
        let [west, east, south, north] = self.bounds();
        Point {
            longitude: ((west + east) / 2.0).clamp(-LONGITUDE_MAX, LONGITUDE_MAX),
            latitude: ((south + north) / 2.0).clamp(-LATITUDE_MAX, LATITUDE_MAX),
        }
    }

    /// The scores in the cell: first, and first behind.
    fn scores(self) -> (f64, f64) {
        let shift = 52 - 2 * self.steps;
        ((self.bits() << shift) as f64, ((self.bits() + 1) << shift) as f64)
    }
}

fn distance(from: Point, to: Point) -> f64 {
    let (from_longitude, to_longitude) = (from.longitude.to_radians(), to.longitude.to_radians());
    let v = ((to_longitude - from_longitude) / 2.0).sin();
    let (from_latitude, to_latitude) = (from.latitude.to_radians(), to.latitude.to_radians());
    if v == 0.0 {
        return EARTH_RADIUS_M * (to_latitude - from_latitude).abs();
    }
    let u = ((to_latitude - from_latitude) / 2.0).sin();
    let a = u * u + from_latitude.cos() * to_latitude.cos() * v * v;
    2.0 * EARTH_RADIUS_M * a.sqrt().asin()
}

fn distance_text(metres: f64, unit: f64) -> Reply {
    Reply::text(format!("{:.4}", metres / unit))
}

fn unit(a: &[Bytes], place: usize) -> Result<f64> {
    Ok(match a.at(place)?.to_ascii_lowercase().as_slice() {
        b"m" => 1.0,
        b"km" => 1000.0,
        b"ft" => 0.3048,
        b"mi" => 1609.34,
        _ => return error("ERR unsupported unit provided. please use M, KM, FT, MI"),
    })
}

fn point(a: &[Bytes], place: usize) -> Result<Point> {
    let point = Point { longitude: a.float(place)?, latitude: a.float(place + 1)? };
    if point.longitude.abs() > LONGITUDE_MAX || point.latitude.abs() > LATITUDE_MAX {
        return failure(format!(
            "ERR invalid longitude,latitude pair {:.6},{:.6}",
            point.longitude, point.latitude
        ));
    }
    Ok(point)
}

fn geoadd(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let mut first = 2;
    let (mut nx, mut xx) = (false, false);
    loop {
        match a.word(first).as_str() {
            "NX" => nx = true,
            "XX" => xx = true,
            "CH" => {}
            _ => break,
        }
        first += 1;
    }
    let left = a.len() - first;
    if left == 0 || !left.is_multiple_of(3) || (nx && xx) {
        return error(SYNTAX);
    }
    let mut zadd: Vec<Bytes> = vec![Bytes::from_static(b"zadd")];
    zadd.extend_from_slice(&a[1..first]);
    for place in (first..a.len()).step_by(3) {
        let cell = Cell::of(point(a, place)?, LATITUDE_MAX, STEPS_MAX);
        zadd.push(Bytes::from(cell.bits().to_string()));
        zadd.push(a.at(place + 2)?.clone());
    }
    run(x, &zadd)
}

fn geodist(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let unit = match a.len() {
        4 => 1.0,
        5 => unit(a, 4)?,
        _ => return error(SYNTAX),
    };
    let found = scores(x, a.at(1)?, &a[2..4])?;
    let (Some(from), Some(to)) = (found[0], found[1]) else { return Ok(Reply::Nil) };
    let metres = distance(Cell::of_score(from).centre(), Cell::of_score(to).centre());
    Ok(distance_text(metres, unit))
}

fn geohash(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    const ALPHABET: &[u8] = b"0123456789bcdefghjkmnpqrstuvwxyz";
    let text = |score: f64| {
        let cell = Cell::of(Cell::of_score(score).centre(), 90.0, STEPS_MAX);
        let bits = cell.bits();
        let letters: Vec<u8> = (0..11u32)
            .map(|place| {
                let index = if place == 10 { 0 } else { bits >> (52 - (place + 1) * 5) & 0x1F };
                ALPHABET[index as usize]
            })
            .collect();
        Reply::Bulk(Bytes::from(letters))
    };
    let found = scores(x, a.at(1)?, a.from(2))?;
    Ok(Reply::Array(found.into_iter().map(|score| score.map_or(Reply::Nil, text)).collect()))
}

fn position(point: Point) -> Reply {
    Reply::Array(vec![Reply::Decimal(point.longitude), Reply::Decimal(point.latitude)])
}

fn geopos(x: &mut Exec<'_>, a: &[Bytes]) -> Result {
    let found = scores(x, a.at(1)?, a.from(2))?;
    let text = |score: Option<f64>| match score {
        None => Reply::NilArray,
        Some(score) => position(Cell::of_score(score).centre()),
    };
    Ok(Reply::Array(found.into_iter().map(text).collect()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Radius,
    ByMember,
    Search,
    SearchStore,
}

#[derive(Debug, Clone, Copy)]
enum Shape {
    Circle(f64),
    /// Width and height.
    Box(f64, f64),
}

impl Shape {
    /// The distance of a point that lies within.
    fn distance_within(self, centre: Point, point: Point) -> Option<f64> {
        match self {
            Shape::Circle(radius) => {
                let metres = distance(centre, point);
                (metres <= radius).then_some(metres)
            }
            Shape::Box(width, height) => {
                let north = EARTH_RADIUS_M * (point.latitude - centre.latitude).to_radians().abs();
                if north > height / 2.0 {
                    return None;
                }
                let beside = Point { longitude: centre.longitude, latitude: point.latitude };
                let east = distance(point, beside);
                (east <= width / 2.0).then(|| distance(centre, point))
            }
        }
    }

    /// Half of height and width of what surrounds the shape, and its radius.
    fn extent(self) -> (f64, f64, f64) {
        match self {
            Shape::Circle(radius) => (radius, radius, radius),
            Shape::Box(width, height) => {
                let (half_height, half_width) = (height / 2.0, width / 2.0);
                (half_height, half_width, half_width.hypot(half_height))
            }
        }
    }
}

/// Cells that together cover the shape, in Redis' order.
fn cells(centre: Point, shape: Shape) -> Vec<Cell> {
    let (half_height, half_width, radius) = shape.extent();
    let mut steps = 1;
    if radius == 0.0 {
        steps = STEPS_MAX;
    } else {
        let mut range = radius;
        while range < MERCATOR_MAX_M {
            range *= 2.0;
            steps += 1;
        }
        steps -= 2;
        if centre.latitude.abs() > 66.0 {
            steps -= 1;
            if centre.latitude.abs() > 80.0 {
                steps -= 1;
            }
        }
    }
    let mut steps = (steps as i32).clamp(1, STEPS_MAX as i32) as u32;
    let latitude_delta = (half_height / EARTH_RADIUS_M).to_degrees();
    let widest =
        |latitude: f64| (half_width / EARTH_RADIUS_M / latitude.to_radians().cos()).to_degrees();
    let longitude_delta = widest(centre.latitude + latitude_delta)
        .abs()
        .max(widest(centre.latitude - latitude_delta).abs());
    let (west, east) = (centre.longitude - longitude_delta, centre.longitude + longitude_delta);
    let (south, north) = (centre.latitude - latitude_delta, centre.latitude + latitude_delta);
    let cell_at = |steps: u32| Cell::of(centre, LATITUDE_MAX, steps);
    let middle = cell_at(steps);
    let is_too_small = middle.neighbour(0, 1).bounds()[3] < north
        || middle.neighbour(0, -1).bounds()[2] > south
        || middle.neighbour(1, 0).bounds()[1] < east
        || middle.neighbour(-1, 0).bounds()[0] > west;
    if steps > 1 && is_too_small {
        steps -= 1;
    }
    let middle = cell_at(steps);
    let [cell_west, cell_east, cell_south, cell_north] = middle.bounds();
    let mut found: Vec<Cell> = vec![middle];
    for (to_east, to_north) in
        [(0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)]
    {
        let is_useless = steps >= 2
            && ((to_north < 0 && cell_south < south)
                || (to_north > 0 && cell_north > north)
                || (to_east < 0 && cell_west < west)
                || (to_east > 0 && cell_east > east));
        let cell = middle.neighbour(to_east, to_north);
        if !is_useless && !found.contains(&cell) {
            found.push(cell);
        }
    }
    found
}

#[derive(Default)]
struct Options {
    with_coordinates: bool,
    with_distance: bool,
    with_hash: bool,
    is_sorted: Option<bool>,
    count: Option<usize>,
    any: bool,
    store: Option<Bytes>,
    stores_distance: bool,
}

struct Search {
    centre: Option<Point>,
    from_member: bool,
    shape: Option<Shape>,
    unit: f64,
    options: Options,
}

fn member_point(x: &Exec<'_>, key: &Bytes, member: &Bytes) -> Result<Point> {
    match scores(x, key, std::slice::from_ref(member))?.first() {
        Some(Some(score)) => Ok(Cell::of_score(*score).centre()),
        _ => error("ERR could not decode requested zset member"),
    }
}

fn positive(a: &[Bytes], place: usize, what: &'static str, negative: &'static str) -> Result<f64> {
    match parse_float(a.at(place)?) {
        None => error(what),
        Some(number) if number < 0.0 => error(negative),
        Some(number) => Ok(number),
    }
}

fn parse(x: &Exec<'_>, a: &[Bytes], form: Form, key: &Bytes, may_store: bool) -> Result<Search> {
    let mut search = Search {
        centre: None,
        from_member: false,
        shape: None,
        unit: 1.0,
        options: Options::default(),
    };
    let is_absent = x.collection(key, Kind::SortedSet)?.is_none();
    let radius = |place: usize| {
        positive(a, place, "ERR need numeric radius", "ERR radius cannot be negative")
    };
    let mut place = match form {
        Form::Radius => {
            search.centre = Some(point(a, 2)?);
            search.unit = unit(a, 5)?;
            search.shape = Some(Shape::Circle(radius(4)? * search.unit));
            6
        }
        Form::ByMember => {
            search.from_member = true;
            if !is_absent {
                search.centre = Some(member_point(x, key, a.at(2)?)?);
            }
            search.unit = unit(a, 4)?;
            search.shape = Some(Shape::Circle(radius(3)? * search.unit));
            5
        }
        Form::Search => 2,
        Form::SearchStore => 3,
    };
    let is_search = matches!(form, Form::Search | Form::SearchStore);
    while place < a.len() {
        let left = a.len() - place - 1;
        let options = &mut search.options;
        match a.word(place).as_str() {
            "WITHDIST" => options.with_distance = true,
            "WITHHASH" => options.with_hash = true,
            "WITHCOORD" => options.with_coordinates = true,
            "ANY" => options.any = true,
            "ASC" => options.is_sorted = Some(true),
            "DESC" => options.is_sorted = Some(false),
            "COUNT" if left >= 1 => {
                let count = a.integer(place + 1)?;
                if count <= 0 {
                    return error("ERR COUNT must be > 0");
                }
                options.count = Some(usize::try_from(count).unwrap_or(usize::MAX));
                place += 1;
            }
            word @ ("STORE" | "STOREDIST") if left >= 1 && may_store && !is_search => {
                options.stores_distance = word == "STOREDIST";
                options.store = Some(a.at(place + 1)?.clone());
                place += 1;
            }
            "STOREDIST" if form == Form::SearchStore => options.stores_distance = true,
            "FROMMEMBER"
                if left >= 1 && is_search && search.centre.is_none() && !search.from_member =>
            {
                search.from_member = true;
                if !is_absent {
                    search.centre = Some(member_point(x, key, a.at(place + 1)?)?);
                }
                place += 1;
            }
            "FROMLONLAT"
                if left >= 2 && is_search && search.centre.is_none() && !search.from_member =>
            {
                search.centre = Some(point(a, place + 1)?);
                place += 2;
            }
            "BYRADIUS" if left >= 2 && is_search && search.shape.is_none() => {
                search.unit = unit(a, place + 2)?;
                search.shape = Some(Shape::Circle(radius(place + 1)? * search.unit));
                place += 2;
            }
            "BYBOX" if left >= 3 && is_search && search.shape.is_none() => {
                search.unit = unit(a, place + 3)?;
                let negative = "ERR height or width cannot be negative";
                let width = positive(a, place + 1, "ERR need numeric width", negative)?;
                let height = positive(a, place + 2, "ERR need numeric height", negative)?;
                search.shape = Some(Shape::Box(width * search.unit, height * search.unit));
                place += 3;
            }
            _ => return error(SYNTAX),
        }
        place += 1;
    }
    let options = &search.options;
    let name = a.word(0).to_ascii_lowercase();
    if is_search && search.centre.is_none() && !search.from_member {
        return failure(format!(
            "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for {name}"
        ));
    }
    if is_search && search.shape.is_none() {
        return failure(format!(
            "ERR exactly one of BYRADIUS and BYBOX can be specified for {name}"
        ));
    }
    if options.any && options.count.is_none() {
        return error("ERR the ANY argument requires COUNT argument");
    }
    let with_any = options.with_coordinates || options.with_distance || options.with_hash;
    if with_any && (options.store.is_some() || form == Form::SearchStore) {
        return failure(if form == Form::SearchStore {
            "ERR GEOSEARCHSTORE is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
        } else {
            "ERR STORE option in GEORADIUS is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
        });
    }
    Ok(search)
}

struct Hit {
    member: Bytes,
    score: f64,
    metres: f64,
    point: Point,
}

fn hits(x: &Exec<'_>, key: &Bytes, search: &Search) -> Result<Vec<Hit>> {
    let mut found = Vec::new();
    let (Some(centre), Some(shape)) = (search.centre, search.shape) else { return Ok(found) };
    let Some(held) = x.collection(key, Kind::SortedSet)? else { return Ok(found) };
    let enough = if search.options.any { search.options.count } else { None };
    for cell in cells(centre, shape) {
        let (first, end) = cell.scores();
        for (member, score) in between(x, &held, first, end)? {
            let point = Cell::of_score(score).centre();
            if let Some(metres) = shape.distance_within(centre, point) {
                found.push(Hit { member, score, metres, point });
                if enough == Some(found.len()) {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

fn search(x: &mut Exec<'_>, a: &[Bytes], form: Form, may_store: bool) -> Result {
    let key = a.at(if form == Form::SearchStore { 2 } else { 1 })?;
    let search = parse(x, a, form, key, may_store)?;
    let mut found = hits(x, key, &search)?;
    let options = &search.options;
    let order = match options.is_sorted {
        None if options.count.is_some() && !options.any => Some(true),
        order => order,
    };
    if let Some(is_ascending) = order {
        found.sort_by(|a, b| {
            let order = a.metres.total_cmp(&b.metres);
            if is_ascending { order } else { order.reverse() }
        });
    }
    found.truncate(options.count.unwrap_or(usize::MAX));
    let target =
        if form == Form::SearchStore { Some(a.at(1)?.clone()) } else { options.store.clone() };
    if let Some(target) = target {
        let members: Vec<(Bytes, f64)> = found
            .into_iter()
            .map(|hit| {
                let distance = hit.metres / search.unit;
                (hit.member, if options.stores_distance { distance } else { hit.score })
            })
            .collect();
        let event = if form == Form::SearchStore { "geosearchstore" } else { "georadiusstore" };
        return store(x, &target, &members, event);
    }
    let row = |hit: Hit| {
        let mut parts = vec![Reply::Bulk(hit.member)];
        if options.with_distance {
            parts.push(distance_text(hit.metres, search.unit));
        }
        if options.with_hash {
            parts.push(Reply::Integer(hit.score as i64));
        }
        if options.with_coordinates {
            parts.push(position(hit.point));
        }
        if parts.len() == 1 { parts.remove(0) } else { Reply::Array(parts) }
    };
    Ok(Reply::Array(found.into_iter().map(row).collect()))
}
