-- What a run begins with. Called once for each interpreter with what Rust provides; returns a function
-- that makes the environment of a run, and one that calls a function and catches its failure.
local libraries = ...

local type, rawget, rawset, rawequal, select, unpack = type, rawget, rawset, rawequal, select, unpack
local error, pcall, setmetatable, getmetatable, tostring = error, pcall, setmetatable, getmetatable, tostring
local next_raw, load_text, set_environment = next, loadstring, setfenv
local floor = math.floor
local string_real, table_real, math_real, coroutine_real = string, table, math, coroutine

local READ_ONLY = "Attempt to modify a readonly table"

-- The metatable of strings must not lead to the one table of string functions that all runs share.
getmetatable("").__metatable = false

-- Tables and functions as keys have an order that their addresses decide, which differs between replicas.
local function check_keys(t)
  for key in next_raw, t do
    local kind = type(key)
    if kind == "table" or kind == "function" or kind == "thread" then
      error("a table with tables or functions as keys cannot be gone through in a script", 3)
    end
  end
end

local function next_checked(t, key)
  if key == nil then check_keys(t) end
  return next_raw(t, key)
end

local function pairs_checked(t)
  if type(t) ~= "table" then error("bad argument #1 to 'pairs' (table expected, got " .. type(t) .. ")", 2) end
  return next_checked, t, nil
end

-- An address tells nothing, and differs between replicas.
local function tostring_plain(value)
  local kind = type(value)
  if kind == "table" or kind == "function" or kind == "thread" or kind == "userdata" then
    local meta = getmetatable(value)
    if type(meta) ~= "table" or meta.__tostring == nil then return kind .. ": 0x0" end
  end
  return tostring(value)
end

local function copy(from, without)
  local into = {}
  for key, value in next_raw, from do
    if not (without and without[key]) then into[key] = value end
  end
  return into
end

local function read_only(t)
  return setmetatable({}, { __index = t, __newindex = function() error(READ_ONLY, 2) end, __metatable = false })
end

local function make_redis(natives, is_library)
  local redis = {}
  redis.call, redis.pcall = natives.call, natives.pcall
  function redis.error_reply(text)
    if type(text) ~= "string" then return { err = "ERR wrong number or type of arguments" } end
    if text:sub(1, 1) == "-" then return { err = text:sub(2) } end
    return { err = "ERR " .. text }
  end
  function redis.status_reply(text)
    if type(text) ~= "string" then return { err = "ERR wrong number or type of arguments" } end
    return { ok = text }
  end
  redis.sha1hex = function(...)
    if select("#", ...) ~= 1 then error("wrong number of arguments", 2) end
    return libraries.sha1hex(tostring((...)))
  end
  redis.setresp = natives.setresp
  redis.log = function() end
  redis.set_repl = function() end
  redis.replicate_commands = function() return true end
  redis.breakpoint = function() return false end
  redis.debug = function() end
  redis.acl_check_cmd = function() return true end
  redis.LOG_DEBUG, redis.LOG_VERBOSE, redis.LOG_NOTICE, redis.LOG_WARNING = 0, 1, 2, 3
  redis.REPL_NONE, redis.REPL_AOF, redis.REPL_SLAVE, redis.REPL_REPLICA, redis.REPL_ALL = 0, 1, 2, 2, 3
  redis.REDIS_VERSION, redis.REDIS_VERSION_NUM = "7.4.0", 0x00070400
  if is_library then redis.register_function = natives.register_function end
  return redis
end

-- Errors that Rust raises become what a script may look at.
-- Protected calls within each other are bounded well below where the interpreter itself gives up: each
-- takes a piece of the thread's stack.
local DEPTH_MAX = 100
local depth = 0

local function caught(is_done, ...)
  depth = depth - 1
  if is_done then return true, ... end
  return false, libraries.unwrap((...))
end

local function pcall_unwrapped(body, ...)
  if depth >= DEPTH_MAX then error("too many protected calls within each other", 0) end
  depth = depth + 1
  return caught(pcall(body, ...))
end

local function xpcall_unwrapped(body, handler)
  local function finish(is_done, ...)
    if is_done then return true, ... end
    return false, handler((...))
  end
  return finish(pcall_unwrapped(body))
end

local function make_environment(natives, is_library, keys, arguments)
  local environment = {}
  depth = 0
  local maths = copy(math_real)
  maths.random = function(low, high)
    local drawn = natives.random()
    if low == nil then return drawn end
    if high == nil then low, high = 1, low end
    if low > high then error("bad argument #1 to 'random' (interval is empty)", 2) end
    return floor(drawn * (high - low + 1)) + low
  end
  maths.randomseed = natives.randomseed
  local redis = read_only(make_redis(natives, is_library))
  local visible = {
    assert = assert, error = error, getmetatable = getmetatable, ipairs = ipairs, next = next_checked,
    pairs = pairs_checked, pcall = pcall_unwrapped, rawequal = rawequal, rawget = rawget, rawset = rawset,
    select = select, setmetatable = setmetatable, tonumber = tonumber, tostring = tostring_plain, type = type,
    unpack = unpack, xpcall = xpcall_unwrapped, _VERSION = _VERSION,
    collectgarbage = function() return 0 end,
    string = read_only(copy(string_real, { dump = true })),
    table = read_only(copy(table_real, { foreach = true })),
    math = read_only(maths),
    coroutine = read_only(copy(coroutine_real)),
    os = read_only({ clock = function() return natives.clock end, time = function() return floor(natives.clock) end }),
    redis = redis, server = redis,
    cjson = read_only(copy(libraries.cjson)),
    cmsgpack = read_only(copy(libraries.cmsgpack)),
    struct = read_only(copy(libraries.struct)),
    bit = read_only(copy(libraries.bit)),
  }
  visible.loadstring = function(text, name)
    if type(text) ~= "string" or text:byte(1) == 27 then return nil, "only text can be loaded" end
    local loaded, failure = load_text(text, name)
    if loaded then set_environment(loaded, environment) end
    return loaded, failure
  end
  visible.load = visible.loadstring
  visible._G = environment
  if not is_library then visible.KEYS, visible.ARGV = keys, arguments end
  return setmetatable(environment, {
    __index = function(_, name)
      local value = visible[name]
      if value == nil then
        error("Script attempted to access nonexistent global variable '" .. tostring(name) .. "'", 2)
      end
      return value
    end,
    __newindex = function() error(READ_ONLY, 2) end,
    __metatable = false,
  })
end

return make_environment, pcall_unwrapped
