#!lua name=plx1_ownership
-- Leases of workers and grants of nodes (protocol.md §2, slot c). KEYS[1] is any key of the slot: its
-- hash tag names all others. The layout of every key is told in docs/redis.md. All are safe to run late. A
-- script looks at every key that may be missing before it writes (docs/redis.md, "Slots that move").
local LEASE = 6000

local function slot(key) return 'plx:' .. string.match(key, '{[^}]*}') .. ':' end

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

local function whole(n) return string.format('%.0f', n) end

-- The first line of every script that judges leases. A new primary gives every known lease a full term,
-- and nothing is taken for that long: what was granted just before may be among the lost writes.
local function turn(c)
  local now = math.floor(clock() / 1000)
  local info = redis.call('INFO', 'replication')
  local id = string.match(info, 'master_replid:(%x+)')
  local era = redis.call('HMGET', c .. 'era', 'id', 'at')
  local at = tonumber(era[2])
  if era[1] ~= id then
    at = era[1] and now or now - LEASE                            -- no era at all: a new store, no grace
    local known = redis.call('SMEMBERS', c .. 'W')
    for _, inc in ipairs(known) do redis.call('EXISTS', c .. 'w:' .. inc) end
    redis.call('HSET', c .. 'era', 'id', id, 'at', whole(at))
    for _, inc in ipairs(known) do
      redis.call('PEXPIRE', c .. 'w:' .. inc, LEASE)
    end
  end
  return id, now - at < LEASE, string.match(info, 'connected_slaves:(%d+)') or '0'
end

local function lives(c, inc) return redis.call('EXISTS', c .. 'w:' .. inc) == 1 end

-- A record in n: '<inc>|<epoch>|<nonce>', no inc: nobody's.
local function record(c, node)
  local text = redis.call('HGET', c .. 'n', node)
  if not text then return nil end
  local inc, epoch, nonce = string.match(text, '^([^|]*)|(%d*)|(.*)$')
  return { inc = inc, epoch = tonumber(epoch) or 0, nonce = nonce }
end

local function changed(c, inc) redis.call('HINCRBY', c .. 'o:' .. inc, '#', 1) end

local function varint(n)
  local out = ''
  while n >= 128 do
    out = out .. string.char(n % 128 + 128)
    n = math.floor(n / 128)
  end
  return out .. string.char(n)
end

local function text(tag, value)
  if value == '' then return '' end
  return string.char(tag) .. varint(#value) .. value
end

-- Tells gateways, as an encoded plexus.bus.v1.OwnerChange: namespace = 1, node = 2, worker = 3, epoch = 4.
local function tell(c, node, inc, epoch)
  local namespace, id = string.match(node, '^([^/]*)/(.*)$')
  redis.call('SPUBLISH', c .. 'own',
    text(10, namespace or '') .. text(18, id or node) .. text(26, inc) .. '\32' .. varint(epoch))
end

-- renew inc fresh -> {era, changes, replicas}, or nil: lost
local function renew(keys, args)
  local c, inc = slot(keys[1]), args[1]
  redis.call('EXISTS', c .. 'w:' .. inc, c .. 'W', c .. 'o:' .. inc)
  local era, grace, replicas = turn(c)
  if args[2] ~= '1' and not grace and not lives(c, inc) then return false end
  redis.call('SET', c .. 'w:' .. inc, '1', 'PX', LEASE)
  redis.call('SADD', c .. 'W', inc)
  return { era, redis.call('HGET', c .. 'o:' .. inc, '#') or '0', replicas }
end

-- The record moves from a dead worker; what is left of its list goes with the last node.
local function leave(c, inc, node)
  local list = c .. 'o:' .. inc
  redis.call('HDEL', list, node)
  if redis.call('HLEN', list) > 1 then changed(c, inc) else redis.call('DEL', list) end
end

-- take inc nonce rnd (node floor from)* -> one epoch per node, '' where it is not free; nil: lost
local function take(keys, args)
  local c, inc, nonce, rnd = slot(keys[1]), args[1], args[2], tonumber(args[3])
  redis.call('EXISTS', c .. 'n', c .. 'o:' .. inc)
  for i = 4, #args, 3 do
    local r = record(c, args[i])
    if r and r.inc ~= '' then redis.call('EXISTS', c .. 'w:' .. r.inc, c .. 'o:' .. r.inc) end
  end
  local _, grace = turn(c)
  if not lives(c, inc) then return false end
  local out, now = {}, clock()
  for i = 4, #args, 3 do
    local node, floor, from = args[i], tonumber(args[i + 1]), args[i + 2]
    local r = record(c, node)
    local epoch = ''
    if r and r.inc == inc and r.nonce == nonce then
      epoch = whole(r.epoch)                                       -- the same take again
    else
      local free
      if from ~= '' then free = r and r.inc == inc and r.nonce == from
      else free = not grace and (not r or r.inc == '' or not lives(c, r.inc)) end
      if free then
        local e = math.max((r and r.epoch or 0) + 1 + rnd, now, floor > 0 and floor + 1 + rnd or 0)
        epoch = whole(e)
        if r and r.inc ~= '' and r.inc ~= inc then leave(c, r.inc, node) end
        redis.call('HSET', c .. 'n', node, inc .. '|' .. epoch .. '|' .. nonce)
        redis.call('HSET', c .. 'o:' .. inc, node, epoch .. '|' .. nonce)
        changed(c, inc)
        tell(c, node, inc, e)
      end
    end
    out[#out + 1] = epoch
  end
  return out
end

-- release inc (node epoch)* -> number released
local function release(keys, args)
  local c, inc, done = slot(keys[1]), args[1], 0
  redis.call('EXISTS', c .. 'n', c .. 'o:' .. inc)
  turn(c)
  for i = 2, #args, 2 do
    local r = record(c, args[i])
    if r and r.inc == inc and whole(r.epoch) == args[i + 1] then
      redis.call('HSET', c .. 'n', args[i], '|' .. args[i + 1] .. '|' .. r.nonce)
      redis.call('HDEL', c .. 'o:' .. inc, args[i])
      changed(c, inc)
      tell(c, args[i], '', r.epoch)
      done = done + 1
    end
  end
  return done
end

-- retire inc: ends the lease; the worker's list goes too if no node is left in it
local function retire(keys, args)
  local c, inc = slot(keys[1]), args[1]
  redis.call('EXISTS', c .. 'w:' .. inc, c .. 'W', c .. 'o:' .. inc)
  turn(c)
  redis.call('DEL', c .. 'w:' .. inc)
  redis.call('SREM', c .. 'W', inc)
  if redis.call('HLEN', c .. 'o:' .. inc) <= 1 then redis.call('DEL', c .. 'o:' .. inc) end
  return 1
end

-- workers -> those whose lease lives; forgets the others, whose keys no era can bring back
local function workers(keys)
  local c, out = slot(keys[1]), {}
  turn(c)
  for _, inc in ipairs(redis.call('SMEMBERS', c .. 'W')) do
    if lives(c, inc) then out[#out + 1] = inc else redis.call('SREM', c .. 'W', inc) end
  end
  return out
end

-- enlist node peer -> 'done', 'node' or 'peer': which of both is there with another
local function enlist(keys, args)
  local c, node, peer = slot(keys[1]), args[1], args[2]
  local known, other = redis.call('HGET', c .. 'q', node), redis.call('HGET', c .. 'p', peer)
  if known and known ~= peer then return 'node' end
  if other and other ~= node then return 'peer' end
  redis.call('EXISTS', c .. 'q', c .. 'p', c .. 'n')
  redis.call('HSET', c .. 'q', node, peer)
  redis.call('HSET', c .. 'p', peer, node)
  redis.call('HSETNX', c .. 'n', node, '|0|')
  return 'done'
end

-- strike inc node epoch peer -> 1, or 0: not the owner
local function strike(keys, args)
  local c, inc, node, peer = slot(keys[1]), args[1], args[2], args[4]
  redis.call('EXISTS', c .. 'n', c .. 'o:' .. inc, c .. 'q', c .. 'p')
  turn(c)
  local r = record(c, node)
  if not r or r.inc ~= inc or whole(r.epoch) ~= args[3] then return 0 end
  redis.call('HDEL', c .. 'n', node)
  redis.call('HDEL', c .. 'o:' .. inc, node)
  redis.call('HDEL', c .. 'q', node)
  if redis.call('HGET', c .. 'p', peer) == node then redis.call('HDEL', c .. 'p', peer) end
  changed(c, inc)
  tell(c, node, '', r.epoch)
  return 1
end

-- What keeps or gives back must also run when memory is short.
redis.register_function{ function_name = 'plx1_renew', callback = renew, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'plx1_release', callback = release, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'plx1_retire', callback = retire, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'plx1_workers', callback = workers, flags = { 'allow-oom' } }
redis.register_function{ function_name = 'plx1_strike', callback = strike, flags = { 'allow-oom' } }
redis.register_function('plx1_take', take)
redis.register_function('plx1_enlist', enlist)
