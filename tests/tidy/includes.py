"""The rule that a file includes what it needs of the precompiled headers.

In the default build every source begins as if it had included third_party/precompiled/system.h, or
testing.h, so that the compiler does not miss an include there. It does in a build that optimizes, and
in a workspace that uses mi7.
"""

import re

# What shows that a file needs a header. Only headers that are precompiled; what of them is not
# listed here (functions that every other header declares, too, such as std::swap) is not looked for.
_SHOWS = {
    "algorithm": r"std::(?:all_of|any_of|binary_search|clamp|copy|copy_n|count_if|equal|fill|fill_n|find"
    r"|find_if|is_sorted|lower_bound|max|max_element|min|min_element|none_of|nth_element|partition"
    r"|remove_if|reverse|rotate|shuffle|sort|stable_sort|transform|unique|upper_bound)\s*[(<]",
    "array": r"std::array\b",
    "atomic": r"std::(?:atomic|atomic_ref|atomic_thread_fence|atomic_signal_fence|memory_order\w*)\b",
    "bit": r"std::(?:bit_cast|bit_ceil|bit_width|countl_zero|countr_zero|endian|has_single_bit|popcount)\b",
    "coroutine": r"std::(?:coroutine_handle|noop_coroutine|suspend_always|suspend_never)\b",
    "cstdint": r"\b(?:u?int(?:8|16|32|64)_t|u?intptr_t|U?INT(?:8|16|32|64)_MAX)\b",
    "cstdio": r"(?:std::(?:fclose|fflush|fopen|fprintf|fputs|fread|fwrite|printf|snprintf)|\bstd(?:out|err))\b",
    "cstring": r"std::(?:memcmp|memcpy|memmove|memset|strcmp|strerror|strlen|strncmp)\b",
    "deque": r"std::deque\b",
    "functional": r"std::(?:bind|equal_to|function|greater|hash|invoke|less|ref)\s*[(<]",
    "map": r"std::(?:multi)?map\b",
    "memory": r"std::(?:addressof|allocator|construct_at|default_delete|destroy_at|enable_shared_from_this"
    r"|make_shared|make_unique|shared_ptr|static_pointer_cast|unique_ptr|weak_ptr)\b",
    "mutex": r"std::(?:call_once|lock_guard|mutex|once_flag|scoped_lock|unique_lock)\b",
    "optional": r"std::(?:make_optional|nullopt|optional)\b",
    "span": r"std::span\b",
    "stop_token": r"std::stop_(?:callback|source|token)\b",
    "string": r"std::(?:getline|sto(?:i|l|ll|ul|ull)|string|to_string)\b",
    "thread": r"std::(?:jthread|this_thread|thread)\b",
    "utility": r"std::(?:as_const|cmp_less|declval|exchange|forward|in_place|index_sequence|make_pair|move|pair)\b",
    "vector": r"std::vector\b",
    "capnp/any.h": r"capnp::AnyPointer\b",
    "capnp/message.h": r"capnp::(?:FlatMessageBuilder|MallocMessageBuilder|MessageBuilder|MessageReader"
    r"|ReaderOptions|SegmentArrayMessageReader)\b",
    "capnp/serialize.h": r"capnp::(?:FlatArrayMessageReader|StreamFdMessageReader|computeSerializedSizeInWords"
    r"|messageToFlatArray)\b",
    "absl/base/thread_annotations.h": r"\bABSL_(?:EXCLUSIVE_LOCKS_REQUIRED|GUARDED_BY|LOCKS_EXCLUDED"
    r"|NO_THREAD_SAFETY_ANALYSIS|PT_GUARDED_BY)\b",
    "absl/container/flat_hash_map.h": r"absl::flat_hash_map\b",
    "absl/functional/any_invocable.h": r"absl::AnyInvocable\b",
    "absl/functional/function_ref.h": r"absl::FunctionRef\b",
    "absl/status/status.h": r"absl::(?:Is[A-Z]\w+|OkStatus|Status|StatusCode|StatusToStringMode|[A-Z]\w+Error)\b",
    "absl/status/statusor.h": r"absl::StatusOr\b",
    "absl/strings/match.h": r"absl::(?:EndsWith|EqualsIgnoreCase|StartsWith|StartsWithIgnoreCase|StrContains)\b",
    "absl/strings/numbers.h": r"absl::Simple(?:Atob|Atod|Atoi|HexAtoi)\b",
    "absl/strings/str_cat.h": r"absl::(?:AlphaNum|Dec|Hex|StrAppend|StrCat|kZeroPad\w*)\b",
    "absl/strings/str_format.h": r"absl::(?:FPrintF|PrintF|SNPrintF|StrAppendFormat|StrFormat)\b",
    "absl/strings/str_join.h": r"absl::StrJoin\b",
    "absl/strings/str_split.h": r"absl::(?:ByChar|MaxSplits|SkipEmpty|SkipWhitespace|StrSplit)\b",
    "absl/strings/string_view.h": r"absl::string_view\b",
    "absl/synchronization/mutex.h": r"absl::(?:CondVar|Condition|Mutex|MutexLock)\b",
    "absl/synchronization/notification.h": r"absl::Notification\b",
    "absl/time/time.h": r"absl::(?:Duration|Format(?:Duration|Time)|FromUnix\w+|Hours|InfiniteDuration"
    r"|Microseconds|Milliseconds|Minutes|Nanoseconds|Now|Seconds|Time|ToDouble\w+|ToInt64\w+|ToUnix\w+"
    r"|UnixEpoch|ZeroDuration)\b",
    "absl/types/span.h": r"absl::(?:MakeConstSpan|MakeSpan|Span)\b",
    "gmock/gmock.h": r"\b(?:EXPECT_THAT|ASSERT_THAT|MATCHER(?:_P)?|MOCK_METHOD)\b",
    "gtest/gtest.h": r"\b(?:ASSERT|EXPECT)_(?:EQ|FALSE|GE|GT|LE|LT|NE|TRUE)\b|\bTEST(?:_F|_P)?\(",
}
_SHOWS = {header: re.compile(shows) for header, shows in _SHOWS.items()}

# What a header is sure to bring, as its own declarations need it.
_BRINGS = {
    "absl/status/status.h": ["absl/strings/string_view.h"],
    "absl/status/statusor.h": ["absl/status/status.h"],
    "absl/strings/str_cat.h": ["absl/strings/string_view.h"],
    "absl/synchronization/mutex.h": ["absl/base/thread_annotations.h", "absl/time/time.h"],
    "absl/synchronization/notification.h": ["absl/time/time.h"],
    "gmock/gmock.h": ["gtest/gtest.h", "functional"],
    "gtest/gtest.h": ["memory", "string", "utility", "vector"],
    "map": ["utility"],
}

_PRECOMPILED = ("third_party/precompiled/system.h", "third_party/precompiled/testing.h")
_INCLUDE = re.compile(r'^\s*#\s*include\s*["<]([^">]+)[">]', re.MULTILINE)


def includes_what_is_precompiled(tree):
    """What a file uses of a precompiled header it includes, itself or by a header of ours."""
    for path in _PRECOMPILED:
        for header in _included(tree, path):
            if header not in _SHOWS and header not in _PRECOMPILED:
                yield path, "tests/tidy/includes.py does not know what shows that <%s> is needed" % header
    for path in tree.cpp():
        # Ours, but compiled for other projects, too: nothing is precompiled there.
        if path.startswith("third_party/"):
            continue
        there = _closure(tree, path)
        text = None
        for header, shows in _SHOWS.items():
            if header in there:
                continue
            text = text or "\n".join(tree.code_lines(path))
            match = shows.search(text)
            if match:
                line = text.count("\n", 0, match.start()) + 1
                yield path, "line %d: include <%s> for %s" % (line, header, match.group(0).rstrip("( <"))


def _included(tree, path):
    """The paths of all includes of a file of the tree; of what is not in it, what it brings."""
    if not tree.has(path):
        return _BRINGS.get(path, [])
    return _INCLUDE.findall(tree.text(path))


def _closure(tree, path):
    """All that a file includes, by whatever way."""
    seen = set()
    waiting = [path]
    while waiting:
        for header in _included(tree, waiting.pop()):
            if header not in seen:
                seen.add(header)
                waiting.append(header)
    return seen
