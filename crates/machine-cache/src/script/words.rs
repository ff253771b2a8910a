//! The `bit` library: operations on 32-bit words.

use mlua::{Lua, Table, Variadic};

type Operation = fn(u32, u32) -> u32;

fn word(number: f64) -> u32 {
    number.rem_euclid(4_294_967_296.0) as u64 as u32
}

fn signed(word: u32) -> f64 {
    f64::from(word.cast_signed())
}

pub(super) fn library(lua: &Lua) -> mlua::Result<Table> {
    let table = lua.create_table()?;
    table.set("tobit", lua.create_function(|_, n: f64| Ok(signed(word(n))))?)?;
    table.set("bnot", lua.create_function(|_, n: f64| Ok(signed(!word(n))))?)?;
    table.set("bswap", lua.create_function(|_, n: f64| Ok(signed(word(n).swap_bytes())))?)?;
    let folds: [(&str, Operation); 3] =
        [("band", |a, b| a & b), ("bor", |a, b| a | b), ("bxor", |a, b| a ^ b)];
    for (name, fold) in folds {
        let body = move |_: &Lua, numbers: Variadic<f64>| {
            let mut words = numbers.iter().map(|number| word(*number));
            let first =
                words.next().ok_or(mlua::Error::runtime("number expected, got no value"))?;
            Ok(signed(words.fold(first, fold)))
        };
        table.set(name, lua.create_function(body)?)?;
    }
    let shifts: [(&str, Operation); 5] = [
        ("lshift", |a, n| a << n),
        ("rshift", |a, n| a >> n),
        ("arshift", |a, n| (a.cast_signed() >> n).cast_unsigned()),
        ("rol", u32::rotate_left),
        ("ror", u32::rotate_right),
    ];
    for (name, shift) in shifts {
        let body =
            move |_: &Lua, (number, by): (f64, f64)| Ok(signed(shift(word(number), word(by) & 31)));
        table.set(name, lua.create_function(body)?)?;
    }
    let to_hex = |_: &Lua, (number, digits): (f64, Option<f64>)| {
        let digits = digits.unwrap_or(8.0);
        let text = format!("{:08x}", word(number));
        let kept = (digits.abs() as usize).clamp(1, 8);
        let text = text[8 - kept..].to_owned();
        Ok(if digits < 0.0 { text.to_uppercase() } else { text })
    };
    table.set("tohex", lua.create_function(to_hex)?)?;
    Ok(table)
}
