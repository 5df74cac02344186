#pragma once

// The same for sources of tests.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "third_party/precompiled/system.h"
